"""What a person has to mend before a command can go on."""


class SetupError(Exception):
    """Settings, topics or servers are not as they must be; the message says what to do."""


class NotReadyError(SetupError):
    """Something that somebody may be about to set up: servers wait for it, commands say so."""
