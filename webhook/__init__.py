"""The admission webhook that adds the elector to annotated pods, and its command line. See `docs/how-it-works.md`."""
