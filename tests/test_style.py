"""By computation: contrast, families that stay apart however a reader sees colour, and the figures' style."""

import itertools
import re

import matplotlib
import numpy as np
import pytest

import face
from adapterlab.kit import show, style
from adapterlab.kit.style import MARKS

DARK_GROUND = "#121212"  # the theme's
FAMILIES = sorted({mark.family for mark in MARKS.values()} - {"none"})


def linear(colour: str) -> np.ndarray:
    """Linear RGB in [0, 1] of #rrggbb."""
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """WCAG 2: 1 to 21."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (a, b))
    return (high + 0.05) / (low + 0.05)


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
SIGHTS = {
    "all three cones": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def lab(colour: str, sight: str) -> np.ndarray:
    """CIE L*a*b* (D65) of a colour as that sight has it."""
    rgb = np.clip(SIGHTS[sight] @ linear(colour), 0, 1)
    t = TO_XYZ @ rgb / (TO_XYZ @ np.ones(3))
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def ciede2000(one: np.ndarray, two: np.ndarray) -> float:
    """Sharma, Wu and Dalal 2005."""
    (L1, a1, b1), (L2, a2, b2) = one, two
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 0.5 * (1 - np.sqrt(mean**7 / (mean**7 + 25.0**7)))
    a1, a2 = a1 * (1 + g), a2 * (1 + g)
    C1, C2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    dh = 0.0 if C1 * C2 == 0 else (h2 - h1 + 180) % 360 - 180
    h = h1 + h2 if C1 * C2 == 0 else (h1 + dh / 2) % 360
    L, C = (L1 + L2) / 2, (C1 + C2) / 2
    cos = lambda degrees: np.cos(np.radians(degrees))  # noqa: E731
    T = 1 - 0.17 * cos(h - 30) + 0.24 * cos(2 * h) + 0.32 * cos(3 * h + 6) - 0.20 * cos(4 * h - 63)
    turn = 2 * np.sqrt(C**7 / (C**7 + 25.0**7)) * np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2))))
    dL = (L2 - L1) / (1 + 0.015 * (L - 50) ** 2 / np.sqrt(20 + (L - 50) ** 2))
    dC = (C2 - C1) / (1 + 0.045 * C)
    dH = 2 * np.sqrt(C1 * C2) * np.sin(np.radians(dh / 2)) / (1 + 0.015 * C * T)
    return float(np.sqrt(dL**2 + dC**2 + dH**2 - turn * dC * dH))


def distance(a: str, b: str, sight: str) -> float:
    return ciede2000(lab(a, sight), lab(b, sight))


@pytest.mark.parametrize(
    "one, two, known",
    [  # from the paper's table
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.694), (23.0331, 14.973, -42.5619), 2.0373),
    ],
)
def test_the_distance_is_ciede2000(one, two, known):
    assert ciede2000(np.array(one), np.array(two)) == pytest.approx(known, abs=1e-3)


def test_a_confusion_is_noticed():
    """Red and green of one lightness: far apart for most, close for a deutan."""
    assert distance("#c85050", "#6e8c32", "all three cones") > 3 * distance("#c85050", "#6e8c32", "deutan")


@pytest.mark.parametrize("mark", MARKS.values(), ids=MARKS)
def test_colours_stand_out_from_their_ground(mark):
    assert contrast(mark.light, "#ffffff") >= 4.6 and contrast(mark.dark, DARK_GROUND) >= 4.7
    assert contrast(mark.line, "#ffffff") >= 3 and contrast(mark.line, DARK_GROUND) >= 3


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("ground", ["light", "dark", "line"])
def test_families_stay_apart(ground, sight):
    """Members of different families never look alike; two that do could be told by their marker, but need not be."""
    near = {
        (a, b): round(distance(getattr(MARKS[a], ground), getattr(MARKS[b], ground), sight), 1)
        for a, b in itertools.combinations(MARKS, 2)
        if MARKS[a].family != MARKS[b].family and "none" not in (MARKS[a].family, MARKS[b].family)
    }
    assert min(near.values()) >= 9, sorted(near.items(), key=lambda item: item[1])[:4]


@pytest.mark.parametrize("family", FAMILIES)
def test_members_of_a_family_are_told_by_marker_and_colour(family):
    members = [mark for mark in MARKS.values() if mark.family == family]
    for ground in ("light", "dark", "line"):
        assert len({getattr(mark, ground) for mark in members}) == len(members)
    assert len({mark.marker for mark in members}) == len(members)


def test_words_in_figures_are_legible():
    assert contrast(style.INK, style.CARD) > 7 and contrast(style.MUTED, style.CARD) > 4.5


# ---- figures --------------------------------------------------------------------------------------


def test_a_figure_is_in_the_house_style_and_leaves_matplotlib_alone():
    before = dict(matplotlib.rcParams)
    fig, axes = style.figure(columns=2)
    axes[0].plot([0, 1])
    axes[0].set_title("a title")
    show.Picture(fig, "a line")
    assert matplotlib.rcParams == before
    assert matplotlib.colors.to_hex(fig.get_facecolor()) == style.CARD
    for ax in axes:
        assert matplotlib.colors.to_hex(ax.get_facecolor()) == style.CARD
        assert not ax.spines["top"].get_visible() and not ax.spines["right"].get_visible()
        assert matplotlib.colors.to_hex(ax.xaxis.label.get_color()) == style.INK
        assert {label.get_fontname() for label in ax.get_xticklabels()} == {"DejaVu Sans"}
    assert set(style.RC) <= set(matplotlib.rcParams)


def test_text_in_a_figure_is_at_least_ten_pixels_high():
    fig, ax = style.figure()
    sizes = [ax.title, ax.xaxis.label, *ax.get_xticklabels()]
    assert min(text.get_fontsize() for text in sizes) / 72 * 96 >= 10


def test_a_picture_is_the_same_bytes_twice_and_holds_its_glyphs():
    svgs = []
    for _ in range(2):
        fig, ax = style.figure()
        ax.plot([0, 1], label="line")
        ax.legend()
        picture = show.Picture(fig, "a line")
        svgs.append((picture.svg, picture.stacked))
    assert svgs[0] == svgs[1]
    assert "<text" not in svgs[0][0]  # its glyphs are paths
    assert not re.search(r"""(?:href|src)="(?!#)|url\((?!#)""", svgs[0][0])  # and it asks for nothing


def width_of(svg: str) -> float:
    """In CSS pixels."""
    return float(re.search(r'width="([\d.]+)pt"', svg)[1]) * 96 / 72


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_on_a_phone_a_picture_keeps_the_size_of_its_text(columns):
    picture = show.Picture(style.figure(columns=columns)[0], "axes")
    assert width_of(picture.stacked) <= 360 < width_of(picture.svg)  # 390 less the page's margins
    html = picture.html()
    assert html.count("<source ") == 1 and "al-wide" not in html
    assert "<source" not in picture.html("<progress></progress>")  # a live curve's frame is soon replaced


def test_a_narrow_picture_has_one_form_and_an_odd_one_is_pushed_sideways():
    assert not show.Picture(style.figure(width=4.2)[0], "axes").stacked
    fig, ax = style.figure()
    ax.inset_axes([0.5, 0.5, 0.3, 0.3])
    fig.add_axes((0.1, 0.1, 0.2, 0.2))
    html = show.Picture(fig, "axes").html()
    assert "<source" not in html and 'class="al-wide" tabindex="0"' in html


# ---- the book's face ------------------------------------------------------------------------------


def test_the_style_sheet_has_every_colour():
    sheet = face.palette()
    light, dark = sheet.split('html[data-theme="dark"]')
    for name, mark in MARKS.items():
        variable = f"--al-{face.slug(name)}:"
        assert f"{variable} {mark.light};" in light and f"{variable} {mark.dark};" in dark


def test_the_logo_is_the_four_families_in_their_colours():
    found = face.MARK.findall(face.LOGO.read_text("utf-8"))
    assert sorted(family for family, *_ in found) == sorted(face.slug(family) for family in FAMILIES)
    for family, _, fill, _ in found:
        assert fill in {mark.line for mark in MARKS.values() if face.slug(mark.family) == family}


def test_every_member_has_a_mark_in_the_contents():
    sheet = face.palette()
    for name, mark in MARKS.items():
        assert (f'a[href="{name}.html"]::before' in sheet) == (mark.family != "none")
