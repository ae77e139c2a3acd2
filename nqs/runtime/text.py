"""Text of untrusted origin, made safe to print."""


def printable(text: object, *, keep: str = "", longest: int | None = None) -> str:
    """Text in one line without characters that control a terminal or its writing direction.

    Line ends and tabs become spaces, others that are not printable escapes such as \\x1b.

    Args:
        keep: characters that stay, such as "\\n".
        longest: characters of the result before it is cut off.

    >>> printable("E = -8\\x1b[2J\\nlies")
    'E = -8\\\\x1b[2J lies'
    """
    text = str(text)
    if longest is not None and len(text) > longest:
        text = f"{text[:longest]} …"
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else " " if c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )
