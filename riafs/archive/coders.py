"""What the standard library's decoder can do of a folder: the description that liblzma takes.

Method numbers as in ``Methods.txt`` of 7-Zip's sources. Left to 7-Zip itself: methods that liblzma or Python's module
has not (PPMd, BZip2, Deflate, Deflate64, BCJ2, ARM64, RISC-V), and a filter after LZMA without an end mark, of which
liblzma keeps back the last bytes (seen with 5.4).
"""

import lzma
from collections.abc import Sequence

from riafs.formats.sevenzip_folder import DELTA, LZMA, LZMA2, Coder

Filter = dict[str, int]

_MIN_DICTIONARY = 4096
_MAX_LITERAL_BITS = 4

_BRANCH_FILTERS = {
    b"\x04": lzma.FILTER_X86,
    b"\x05": lzma.FILTER_POWERPC,
    b"\x06": lzma.FILTER_IA64,
    b"\x07": lzma.FILTER_ARM,
    b"\x08": lzma.FILTER_ARMTHUMB,
    b"\x09": lzma.FILTER_SPARC,
    b"\x03\x03\x01\x03": lzma.FILTER_X86,
    b"\x03\x03\x02\x05": lzma.FILTER_POWERPC,
    b"\x03\x03\x04\x01": lzma.FILTER_IA64,
    b"\x03\x03\x05\x01": lzma.FILTER_ARM,
    b"\x03\x03\x07\x01": lzma.FILTER_ARMTHUMB,
    b"\x03\x03\x08\x05": lzma.FILTER_SPARC,
}


def lzma_filters(chain: Sequence[Coder], decoded_size: int) -> list[Filter] | None:
    """liblzma's filters for coders in the order of `Folder.chain`; None where it cannot decode them."""
    *filters, last = chain
    if last.method == LZMA and not filters:
        return _lzma(last, decoded_size)
    if last.method != LZMA2:
        return None
    known = [_filter(coder) for coder in filters]
    found = [each for each in known if each is not None]
    return [*found, _lzma2(last, decoded_size)] if len(found) == len(known) <= 3 else None


def _filter(coder: Coder) -> Filter | None:
    if coder.method == DELTA and len(coder.properties) == 1:
        return {"id": lzma.FILTER_DELTA, "dist": coder.properties[0] + 1}
    if coder.method in _BRANCH_FILTERS and not coder.properties:
        return {"id": _BRANCH_FILTERS[coder.method]}
    return None


def _dictionary(coder: Coder, decoded_size: int) -> int:
    """No match reaches back further than the decoded bytes, so neither need we."""
    return max(_MIN_DICTIONARY, min(coder.memory, decoded_size))


def _lzma2(coder: Coder, decoded_size: int) -> Filter:
    return {"id": lzma.FILTER_LZMA2, "dict_size": _dictionary(coder, decoded_size)}


def _lzma(coder: Coder, decoded_size: int) -> list[Filter] | None:
    # One byte holds literal context bits, literal position bits and position bits as (pb * 5 + lp) * 9 + lc.
    rest, literal_context = divmod(coder.properties[0], 9)
    position, literal_position = divmod(rest, 5)
    if literal_context + literal_position > _MAX_LITERAL_BITS:
        return None  # LZMA allows 12, liblzma 4
    return [
        {
            "id": lzma.FILTER_LZMA1,
            "dict_size": _dictionary(coder, decoded_size),
            "lc": literal_context,
            "lp": literal_position,
            "pb": position,
        }
    ]
