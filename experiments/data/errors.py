"""The error that data raise which cannot be used."""


class DataError(ValueError):
    """Images do not exist, cannot be read or do not suffice; the message says what to do."""
