"""The bytes of an index are those that docs/manifest-index.md describes."""

import hashlib
import struct
import zlib

from tests.support.manifests import INDEX, N, long_text, store_of


def test_another_program_can_read_it_from_the_description(tmp_path):
    """Every number of docs/manifest-index.md, with nothing of ours."""
    text, sizes = long_text(), list(range(1000, 1000 + N))
    store = store_of(text, sizes, folder=str(tmp_path))
    data = store.read_range(INDEX, 0)
    magic, version, flags, head_bytes, index_bytes, manifest_bytes = struct.unpack_from("<8sHHIQQ", data)
    assert (magic, version, flags) == (b"\x89HTCIDX\n", 1, 1)
    assert (index_bytes, manifest_bytes) == (len(data), len(text))
    digest, n_entries, weight, n_groups, page_groups, n_pages, tag_bytes = struct.unpack_from(
        "<32sQQIIII", data, 32
    )
    assert digest == hashlib.sha256(text).digest()
    assert (n_entries, weight) == (N, sum(sizes))
    assert data[96 : 96 + tag_bytes].decode() == store.head("list.txt").etag
    assert 96 + tag_bytes + 16 * n_pages + 4 == head_bytes
    assert n_pages == -(-n_groups // page_groups)
    assert struct.unpack_from("<I", data, head_bytes - 4)[0] == zlib.crc32(data[: head_bytes - 4])
    at, group, lines = head_bytes, 0, text.splitlines(keepends=True)
    sizes_at = head_bytes + n_pages * (32 + 4) + n_groups * 16
    expected = (0, 0, 1, 0)
    for page in range(n_pages):
        in_page = min(page_groups, n_groups - group)
        assert struct.unpack_from("<QQQQ", data, at) == expected
        assert struct.unpack_from("<QQ", data, 96 + tag_bytes + 16 * page) == (expected[0], expected[3])
        stop = at + 32 + 16 * in_page
        assert struct.unpack_from("<I", data, stop)[0] == zlib.crc32(data[at:stop])
        for row in range(at + 32, stop, 16):
            size_bytes, entries, n_lines, of_group = struct.unpack_from("<IHHQ", data, row)
            position, offset, line_number, before = expected
            assert text[offset : offset + size_bytes] == b"".join(lines[position : position + entries])
            assert (size_bytes <= 16 * 1024, n_lines) == (True, entries)
            found = struct.unpack_from(f"<{entries}Q", data, sizes_at)
            assert list(found) == sizes[position : position + entries]
            assert sum(found) == of_group
            sizes_at += 8 * entries
            assert struct.unpack_from("<I", data, sizes_at)[0] == zlib.crc32(
                data[sizes_at - 8 * entries : sizes_at]
            )
            sizes_at += 4
            expected = (position + entries, offset + size_bytes, line_number + n_lines, before + of_group)
        at, group = stop + 4, group + in_page
    assert expected == (N, len(text), N + 1, sum(sizes))
    assert sizes_at == len(data)
