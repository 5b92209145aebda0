"""The sidecar: leader election for the pod it runs in."""

__version__ = "0.1.0"
