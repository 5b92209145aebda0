"""The controller: keeps what the webhook needs in order, by writing to the API server. The only part with rights there.

One replica at a time acts, chosen by this project's own election. So far it keeps the certificates.
"""

__all__: list[str] = []
