"""The vendored JavaScript: nothing unpinned gets in, and the folder appears whole or not at all."""

import base64
import hashlib
import io
import tarfile

import pytest

import vendor
from vendor import PACKAGES, Package, VendorError


def tarball(**files: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def package(data: bytes, files: dict[str, str]) -> Package:
    return Package("thing@1.0.0", base64.b64encode(hashlib.sha512(data).digest()).decode(), files)


def test_a_wrong_hash_is_refused():
    data = tarball(a="1")
    vendor.check_hash(package(data, {}), data)
    with pytest.raises(VendorError, match="thing@1.0.0.*sha512"):
        vendor.check_hash(package(data, {}), data + b"x")


def test_files_and_folders_are_unpacked_without_source_maps(tmp_path):
    data = tarball(**{"a.js": "1", "f/b.js": "2", "f/b.js.map": "3", "other.js": "4"})
    vendor.unpack(package(data, {"package/a.js": "x/a.js", "package/f/": "y/"}), data, tmp_path)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == ["x/a.js", "y/b.js"]


def test_a_package_that_lacks_a_file_is_refused(tmp_path):
    data = tarball(a="1")
    with pytest.raises(VendorError, match="package/b"):
        vendor.unpack(package(data, {"package/b": "b"}), data, tmp_path)


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(vendor, "download", lambda package: b"not what was pinned")
    with pytest.raises(VendorError):
        vendor.vendor(tmp_path / "_vendor")
    assert not list(tmp_path.iterdir())


def test_packages_are_pinned():
    for each in PACKAGES:
        assert each.spec.rpartition("@")[2].count(".") == 2
        assert len(base64.b64decode(each.sha512)) == 64
