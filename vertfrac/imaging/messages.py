"""What other libraries say, made fit for a message of one line."""


def one_line(error: BaseException) -> str:
    """The text of an error with line breaks and runs of blanks as single blanks; its type where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__
