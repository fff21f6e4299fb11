"""Where a value of undefined length ends."""

from struct import pack

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.dicom_elements import Elements, Encoding, ReadAt
from tasks.core.dicom_items import Ending, Items, fragments, skip_items

EXPLICIT = Encoding(explicit_vr=True, little_endian=True)
IMPLICIT = Encoding(explicit_vr=False, little_endian=True)
BIG_ENDIAN = Encoding(explicit_vr=True, little_endian=False)
UNDEFINED = 0xFFFFFFFF

ITEM_END = pack("<HHL", 0xFFFE, 0xE00D, 0)
SEQUENCE_END = pack("<HHL", 0xFFFE, 0xE0DD, 0)
OPEN_ITEM = pack("<HHL", 0xFFFE, 0xE000, UNDEFINED)
OPEN_SEQUENCE = pack("<HH2sHL", 0x0008, 0x1115, b"SQ", 0, UNDEFINED)
TEXT = pack("<HH2sH", 0x0008, 0x0060, b"CS", 2) + b"CT"
IMPLICIT_TEXT = pack("<HHL", 0x0008, 0x0060, 2) + b"CT"


def item(value: bytes) -> bytes:
    return pack("<HHL", 0xFFFE, 0xE000, len(value)) + value


def reader(content: bytes) -> ReadAt:
    return lambda offset, count: content[offset : offset + count]


def skip(content: bytes, encoding: Encoding = EXPLICIT, limit: int = 1000) -> Items:
    return skip_items(Elements(reader(content), len(content), encoding), 0, limit)


def test_a_sequence_ends_after_its_delimiter():
    """What follows the delimiter is not looked at."""
    sequence = OPEN_ITEM + TEXT + ITEM_END + item(TEXT) + SEQUENCE_END
    assert skip(sequence + b"next") == Items(Ending.WHOLE, len(sequence), 5)


def test_sequences_nest():
    """An inner delimiter does not end the outer sequence."""
    inner = OPEN_SEQUENCE + item(TEXT) + SEQUENCE_END
    sequence = OPEN_ITEM + inner + TEXT + ITEM_END + SEQUENCE_END
    found = skip(sequence + TEXT)
    assert (found.ending, found.end) == (Ending.WHOLE, len(sequence))


def test_an_implicit_item_in_an_explicit_data_set_is_understood():
    """The first element of an item says how the item is written."""
    sequence = OPEN_ITEM + IMPLICIT_TEXT + IMPLICIT_TEXT + ITEM_END + SEQUENCE_END
    assert skip(sequence).ending is Ending.WHOLE
    assert skip(sequence, IMPLICIT).ending is Ending.WHOLE


def test_big_endian_is_read_as_such():
    """Tags and lengths follow the byte order of the data set."""
    content = pack(">HHL", 0xFFFE, 0xE000, 4) + b"abcd" + pack(">HHL", 0xFFFE, 0xE0DD, 0)
    assert skip(content, BIG_ENDIAN).ending is Ending.WHOLE


def test_long_and_short_lengths_are_told_apart_by_vr():
    """OB has a 32-bit length, US a 16-bit one."""
    binary = pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, 70_000) + bytes(70_000)
    number = pack("<HH2sHH", 0x0028, 0x0010, b"US", 2, 512)
    assert skip(OPEN_ITEM + binary + number + ITEM_END + SEQUENCE_END).ending is Ending.WHOLE


def test_inner_delimiters_may_be_missing():
    """The next item, or the end of the sequence, ends an item that has no end of its own."""
    assert skip(OPEN_ITEM + TEXT + item(TEXT) + SEQUENCE_END).ending is Ending.WHOLE
    assert skip(OPEN_ITEM + TEXT + SEQUENCE_END).ending is Ending.WHOLE


def test_a_stray_item_delimiter_is_passed_over():
    """Some write one after an item of defined length as well."""
    assert skip(item(TEXT) + ITEM_END + SEQUENCE_END).ending is Ending.WHOLE


def test_an_odd_fragment_may_be_padded_without_being_counted():
    """The pad byte is not taken for the start of a tag."""
    content = item(b"") + item(b"abc") + b"\0" + item(b"def") + b"\0" + SEQUENCE_END
    assert skip(content).ending is Ending.WHOLE
    assert len(list(fragments(reader(content), 0, len(content), EXPLICIT))) == 3


def test_without_its_delimiter_a_value_is_open_after_a_whole_item():
    """Zero padding up to the end of the file makes no difference."""
    content = item(b"") + item(b"abcd")
    assert skip(content) == Items(Ending.OPEN, len(content), 2)
    assert skip(content + bytes(3)).ending is Ending.OPEN
    assert skip(content + bytes(300)).ending is Ending.OPEN


def test_within_an_item_the_end_of_the_file_is_a_cut():
    """Also between two elements of an item that is not closed."""
    whole = OPEN_ITEM + TEXT + TEXT + ITEM_END
    assert {skip(whole[:end]).ending for end in range(1, len(whole))} == {Ending.CUT}


def test_what_is_no_item_is_lost():
    """Neither an item nor a delimiter where one must stand."""
    assert skip(b"garbage that is no item").ending is Ending.LOST


def test_deep_nesting_is_lost_not_followed():
    """A thousand sequences within sequences end the walk, not the process."""
    assert skip((OPEN_ITEM + OPEN_SEQUENCE) * 1000).ending is Ending.LOST


def test_endless_items_end_at_the_limit():
    """The walk never takes more headers than it was allowed."""
    assert skip(item(b"") * 5000, limit=1000) == Items(Ending.LOST, 8000, 1000, between=False)


def test_fragments_are_named_by_their_place():
    """The basic offset table comes first."""
    content = item(b"") + item(b"abcd") + item(b"ef") + SEQUENCE_END
    places = fragments(reader(content), 0, len(content), EXPLICIT)
    assert [content[start:end] for start, end in places] == [b"", b"abcd", b"ef"]


@settings(deadline=None)
@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_any_bytes_have_an_ending(content: bytes, explicit_vr: bool, little_endian: bool):
    """Nothing raises, and nothing ends beyond the file unless its delimiter says so."""
    found = skip(content, Encoding(explicit_vr, little_endian))
    assert found.ending in Ending
    assert 0 <= found.end <= len(content)
