"""The controller: keeps what webhook and electors need in order, by writing to the API server. The only part with rights there.

One replica at a time acts, chosen by this project's own election. It keeps the certificates (`_keeper`), gives each election its
lock and its candidates their rights (`_grants`), and labels the pod that leads (`_labels`).
"""

__all__: list[str] = []
