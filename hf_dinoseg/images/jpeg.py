"""JPEG files from whose top some rows are wanted: those below need not be decoded."""

from __future__ import annotations

_BASELINE = (0xC0, 0xC1)  # frames that are decoded from the top down, each row once
_PASSED_OVER = (*range(0xE0, 0xF0), 0xFE, 0xDB, 0xC4, 0xDD)  # segments before the frame's: APPn, COM, DQT, DHT, DRI


def upper_part(data: bytes, rows: int, height: int) -> bytes | None:
    """A JPEG file made to say that it is `rows` high, so that decoders stop there.

    Rows are coded from the top down and none depends on those below, except that the colours of subsampled files are
    interpolated between rows: the last two may come out otherwise. What follows in the file is passed over. Markers
    and the frame's head: https://www.w3.org/Graphics/JPEG/itu-t81.pdf, annex B.

    Args:
        data: the file.
        rows: 1 or more, fewer than `height`.
        height: what the file is expected to say.

    Returns:
        None if it is no JPEG, is progressive, or says that its height is another.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> Image.new("RGB", (40, 30)).save(file := io.BytesIO(), "JPEG")
        >>> Image.open(io.BytesIO(upper_part(file.getvalue(), 20, height=30))).size
        (40, 20)
    """
    place = 2
    if data[:place] != b"\xff\xd8":
        return None
    while len(data) >= place + 7 and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker in _BASELINE:
            place += 5  # marker, length, bits a sample
            if int.from_bytes(data[place : place + 2], "big") != height:
                return None
            return data[:place] + rows.to_bytes(2, "big") + data[place + 2 :]
        if marker not in _PASSED_OVER:
            return None
        place += 2 + length
    return None
