"""Vendor MathJax, so that the built pages ask no server for anything, and a widget manager for the tests.

The packages come from npm, each pinned by the sha512 of its tarball. The result is cached in book/_vendor.
"""

import base64
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from paths import TEST_VENDOR, VENDOR


class VendorError(Exception):
    """A sentence for the person who builds the book."""


@dataclass(frozen=True)
class Package:
    spec: str
    sha512: str
    # Path in the tarball -> path in the vendored folder; a path that ends in "/" is a whole folder.
    files: dict[str, str]


# The icon fonts of the Play widget. Two stylesheets ask for them, each relative to its own place.
ICON_FONTS = [f"{name}.woff2" for name in ("1551f4f60c37af51121f", "7a3337626410ca2f4071", "d878b0a6a1144760244f")]
ICON_FOLDERS = ["@jupyter-widgets/", "@jupyter-widgets/html-manager/dist/"]

PACKAGES = [
    Package(
        "@jupyter-widgets/html-manager@1.0.15",
        "5thBIV6ymNgmPVOHvzx+gGy8ZSKmSazhtGw4/c4xJDVzRhG9PTeQsRjF3FUTopvFi//SABeNz1yp47bCrJ3CQA==",
        {
            "package/dist/embed-amd.js": "embed-amd.js",
            **{f"package/dist/{font}": ICON_FOLDERS[1] + font for font in ICON_FONTS},
        },
    ),
    Package(
        "requirejs@2.3.8",
        "7/cTSLOdYkNBNJcDMWf+luFvMriVm7eYxp4BcFCsAX0wF421Vyce5SXP17c+Jd5otXKGNehIonFlyQXSowL6Mw==",
        {"package/require.js": "require.js"},
    ),
    Package(
        "mathjax@3.2.2",
        "Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
        {
            "package/es5/tex-chtml.js": "mathjax/tex-chtml.js",
            "package/es5/input/tex/extensions/": "mathjax/input/tex/extensions/",
            "package/es5/output/chtml/fonts/woff-v2/": "mathjax/output/chtml/fonts/woff-v2/",
        },
    ),
]

# For the browser tests alone; it is in no page.
AXE = Package(
    "axe-core@4.14.1",
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
    {"package/axe.min.js": "axe.min.js"},
)


def have_npm() -> bool:
    return shutil.which("npm") is not None


def check_hash(package: Package, tarball: bytes) -> None:
    found = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    if found != package.sha512:
        raise VendorError(
            f"npm's {package.spec} is not the file this book was written with: its sha512 is {found} "
            f"and should be {package.sha512}."
        )


def unpack(package: Package, tarball: bytes, destination: Path) -> None:
    """Write the wanted files of the tarball; each entry of package.files must be met."""
    missing = set(package.files)
    with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        for member in archive:
            if not member.isfile() or member.name.endswith(".map"):
                continue
            for source, target in package.files.items():
                if source.endswith("/") and member.name.startswith(source):
                    path = destination / target / member.name.removeprefix(source)
                elif member.name == source:
                    path = destination / target
                else:
                    continue
                missing.discard(source)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.extractfile(member).read())
    if missing:
        raise VendorError(f"{package.spec} holds no {', '.join(sorted(missing))}.")


def download(package: Package) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", "--pack-destination", folder, package.spec]
        # In an empty folder, so that no package.json above changes what npm does.
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        tarballs = list(Path(folder).glob("*.tgz"))
        if result.returncode or len(tarballs) != 1:
            why = (result.stderr.strip().splitlines() or ["it gave no reason"])[-1]
            raise VendorError(f"npm could not fetch {package.spec}: {why}")
        return tarballs[0].read_bytes()


def axe(destination: Path = TEST_VENDOR) -> str:
    """axe-core's source, from npm the first time."""
    file = destination / f"{AXE.spec}.js"
    if not file.is_file():
        destination.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination) as folder:
            tarball = download(AXE)
            check_hash(AXE, tarball)
            unpack(AXE, tarball, Path(folder))
            (Path(folder) / "axe.min.js").rename(file)
    return file.read_text("utf-8")


def pins() -> str:
    """What the cached folder was made from; when this changes, it is made again."""
    table = {package.spec: [package.sha512, package.files] for package in PACKAGES}
    table["anywidget"] = importlib.metadata.version("anywidget")
    return json.dumps(table, indent=1, sort_keys=True) + "\n"


def is_vendored(destination: Path = VENDOR) -> bool:
    stamp = destination / "pins.json"
    return stamp.is_file() and stamp.read_text() == pins()


def vendor(destination: Path = VENDOR) -> None:
    """Make `destination` unless it is there already. It appears whole or not at all."""
    if is_vendored(destination):
        return
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix="_vendor.") as folder:
        made = Path(folder) / "made"
        # One level down, since the folder's content is copied into the pages' _static.
        files = made / "vendor"
        for package in PACKAGES:
            tarball = download(package)
            check_hash(package, tarball)
            unpack(package, tarball, files)
        for font in ICON_FONTS:
            shutil.copy(files / ICON_FOLDERS[1] / font, files / ICON_FOLDERS[0] / font)
        anywidget = Path(importlib.util.find_spec("anywidget").origin).parent
        shutil.copy(anywidget / "nbextension" / "index.js", files / "anywidget.js")
        (made / "pins.json").write_text(pins())
        if destination.exists():
            shutil.rmtree(destination)
        made.rename(destination)
