"""What a person has to mend before a command can go on."""


class SetupError(Exception):
    """Settings, topics or servers are not as they must be; the message says what to do."""
