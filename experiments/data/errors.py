"""What is said of data that cannot be used."""


class DataError(ValueError):
    """Images that do not exist, cannot be read or do not suffice; the message says what to do."""
