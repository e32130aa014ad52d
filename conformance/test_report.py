"""What the report promises, on runs that are made up; the page is opened in a real browser where there is one."""

import json
import re
import shutil
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from markupsafe import escape
from rich.console import Console

from conformance.build_corpus import special_values
from conformance.implementations import every_implementation
from conformance.judge import Comparison, Verdict
from conformance.ledger import DEVIATIONS
from conformance.report.contents import Run
from conformance.report.grids import grids_as_json
from conformance.report.html import linked, render_html
from conformance.report.json import render_json
from conformance.report.junit import render_junit
from conformance.report.markdown import render_markdown
from conformance.report.plot import error_plots
from conformance.report.terminal import print_report
from conformance.run import Judgement

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
]
MINUS = "\N{MINUS SIGN}"
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")

GROUPS = ("documentation", "edge", "random", "close", "real", "refused")
HOSTILE = (
    "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 1'>"
    "|`*$x_1$\x00\x1b[1m\ud800\u6f22\U0001f389"
)
LONG = "an-implementation-whose-name-is-" + "very-" * 20 + "long"


def loss(convention: str, dtype: str) -> np.ndarray[Any, Any]:
    """Losses over the edge grid as a convention has them."""
    y, x = np.meshgrid(special_values(dtype), special_values(dtype), indexing="ij")
    with np.errstate(all="ignore"):
        kept = np.where(y == 0, 0 * np.abs(x), y * (np.log(y) - x))
        values: np.ndarray[Any, Any] = np.where(y > 0, kept, 0) if convention == "oneflow" else kept
    return values


def grids(convention: str) -> Mapping[str, Mapping[str, np.ndarray[Any, Any]]]:
    return {
        f"edge/grid/{dtype}/target/none": {"loss": loss(convention, dtype), "input": loss("torch", dtype)}
        for dtype in ("float32", "float64")
    }


def comparisons(seed: int, each: int, verdicts: tuple[Verdict, ...]) -> Iterator[Comparison]:
    rng = np.random.default_rng(seed)
    for group, number, quantity in product(GROUPS, range(each), ("loss", "input", "target")):
        verdict = verdicts[rng.integers(len(verdicts))]
        made = verdict not in (Verdict.UNSUPPORTED, Verdict.NOT_RUN)
        yield Comparison(
            f"{group}/made-up/{number}/float32/target/batchmean",
            group,
            quantity,
            verdict,
            error=float(10 ** rng.uniform(-6, 0)) if made and number % 3 else 0.0,
            ledger=(DEVIATIONS[seed % len(DEVIATIONS)].id, "negative-target") if verdict == Verdict.DEVIATES else (),
            detail="" if verdict in (Verdict.AGREES, Verdict.DEVIATES) else f"{verdict}: {HOSTILE}",
            elements=6 if made else 0,
        )


def made_up(*, each: int = 4, implementations: int = 35, differs: bool = True, text: str = HOSTILE) -> Run:
    """A run with every verdict, and hostile text wherever text comes from elsewhere."""
    explained = (Verdict.AGREES, Verdict.AGREES, Verdict.DEVIATES, Verdict.UNSUPPORTED, Verdict.NOT_RUN)
    judgements = [
        Judgement(
            label=f"implementation {number} [{convention}]",
            version=f"framework {number}.0",
            not_run=None,
            comparisons=tuple(
                comparisons(number, each, (*explained, Verdict.DIFFERS) if differs and number == 1 else explained)
            ),
            environment={"source": "live", "python": "3.12.3", "platform": "Linux-6.8"},
            grids=grids(convention),
        )
        for number, convention in zip(range(implementations - 3), ["oneflow", "torch", "limit"] * 20, strict=False)
    ]
    recorded = {"file": text, text: "key", "platform": text}
    judgements += [
        Judgement(text, text, None, tuple(comparisons(0, each, explained)), recorded),
        Judgement(LONG, "1.0", None, tuple(comparisons(0, each, explained)), {"device": LONG}, grids("oneflow")),
        Judgement("absent", "", f"no CUDA device {text}", ()),
    ]
    unused = (DEVIATIONS[-1].id,) if differs else ()
    return Run(judgements, GROUPS, f"torch.nn.KLDivLoss {text}", "b1eb" * 16, unused, grids("torch"))


@dataclass
class Opened:
    """A page in the browser, and what it did."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(render_html(made_up()), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, page_file: Path) -> Iterator[Callable[..., Opened]]:
    contexts = []

    def open_page(width: int = 1280, theme: str = "light") -> Opened:
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, color_scheme=theme))
        opened = Opened(contexts[-1].new_page())
        opened.page.on("console", lambda message: opened.complaints.append(message.text))
        opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.page.on("request", lambda request: opened.requests.append(request.url))
        opened.page.goto(page_file.as_uri())
        return opened

    yield open_page
    for context in contexts:
        context.close()


@in_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_the_page_fits_the_width_without_complaint_or_request(width: int, theme: str, open_page: Any) -> None:
    opened = open_page(width, theme)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    opened.page.locator(".matrix button").first.click()
    assert opened.page.evaluate("document.getElementById('dialog-body').scrollWidth") <= width
    shown = opened.page.evaluate(
        "(img => [img.currentSrc.slice(0, 18), img.complete && img.naturalWidth > 0])"
        "(document.querySelector('picture img'))"
    )
    assert shown == ["data:image/svg+xml", True]
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []
    assert opened.complaints == []


@in_browser
def test_text_from_elsewhere_is_shown_and_never_run(open_page: Any) -> None:
    page = open_page().page
    label = page.locator(".matrix tbody th a", has_text="window.ran")
    assert label.count() == 1
    page.locator(".matrix button[aria-label*='window.ran']").first.click()
    page.locator("#dialog-verdicts label", has_text="not run").click()
    assert "<script>window.ran = 1</script>" in page.locator("#dialog-rows .explained").first.inner_text()
    assert page.evaluate("window.ran") is None
    assert page.locator("script").count() == 2
    assert page.locator("img").count() == 1


@in_browser
def test_a_cell_opens_its_list_by_keyboard_and_gives_the_focus_back(open_page: Any) -> None:
    page = open_page().page
    cell = page.locator(".matrix button").nth(2)
    cell.focus()
    page.keyboard.press("Enter")
    assert page.locator("#dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#dialog").is_visible()
    assert cell.evaluate("cell => cell === document.activeElement")


@in_browser
@pytest.mark.parametrize("cell", [0, 1, 8, 13])
def test_the_list_has_as_many_comparisons_of_each_verdict_as_the_cell(cell: int, open_page: Any) -> None:
    page = open_page().page
    button = page.locator(".matrix button:visible").nth(cell)
    stated = {verdict: int(count) for count, verdict in re.findall(r"(\d+) ([a-z ]+)(?:,|$)", label_of(button))}
    button.click()
    assert page.locator("#dialog-rows tr").count() == sum(stated.values()) == 12
    for verdict, count in stated.items():
        page.locator("#dialog-verdicts label", has_text=re.compile(f"^{verdict} ")).click()
        assert page.locator("#dialog-rows tr").count() == count
        assert page.locator(f"#dialog-rows tr.{verdict.replace(' ', '-')}").count() == count


def label_of(button: Any) -> str:
    label: str = button.get_attribute("aria-label")
    return label.rpartition(": ")[2]


@in_browser
def test_the_list_is_searched_by_case_and_leads_to_the_ledger(open_page: Any) -> None:
    page = open_page().page
    page.locator(".matrix button.deviates").first.click()
    page.locator("#dialog-search").fill("/made-up/2/")
    assert page.locator("#dialog-rows tr").count() == 3
    page.locator("#dialog-search").fill("")
    page.locator("#dialog-rows a", has_text="negative-target").first.click()
    assert not page.locator("#dialog").is_visible()
    assert page.url.endswith("#ledger-negative-target")
    assert page.evaluate("document.querySelector(':target').id") == "ledger-negative-target"


@in_browser
def test_a_link_to_an_implementation_opens_it(open_page: Any) -> None:
    page = open_page().page
    link = page.locator(".matrix tbody th a").first
    link.click()
    page.wait_for_selector(f"{link.get_attribute('href')}[open]")


@in_browser
def test_the_matrix_has_foreign_implementations_first_and_the_others_folded_up(open_page: Any) -> None:
    page = open_page().page
    assert page.locator(".matrix:visible tbody th a").last.inner_text() == "implementation 31 [torch]"
    page.evaluate("document.querySelectorAll('.part').forEach((one) => { one.open = false; })")
    names = page.locator(".matrix:visible tbody th a").all_inner_texts()
    assert names[1:] == [LONG, "absent"]
    parts = page.locator(".part summary .title").all_inner_texts()
    assert parts == ["kldiv_xp [oneflow]", "kldiv_xp [torch]", "kldiv_xp [limit]"]
    page.locator(".part summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator(".matrix:visible tbody th a").nth(3).inner_text() == "implementation 0 [oneflow]"


def test_what_differs_is_not_folded_up() -> None:
    assert re.findall(r'<details class="part"( open)?>', render_html(made_up(implementations=6))) == ["", " open", ""]


@in_browser
def test_the_grids_are_chosen_and_walked_through_by_keyboard(open_page: Any) -> None:
    page = open_page().page
    figures = page.locator("#maps figure")
    assert figures.count() == 2  # the reference with all that agree, and the oneflow convention
    assert not page.locator("#all-maps").is_visible()
    assert "implementation 2 [limit]" in figures.nth(0).inner_text()
    assert LONG in figures.nth(1).inner_text()
    assert page.locator("#readout").inner_text() == f"target 0, input {MINUS}∞: reference NaN"
    assert "here: 0 ≠ reference" in figures.nth(1).inner_text()
    page.locator("#maps td[tabindex='0']").focus()
    page.keyboard.press("PageDown")
    assert figures.nth(1).locator("td:focus").get_attribute("aria-label") == (
        f"target 0, input {MINUS}∞: 0, not the reference's"
    )
    assert page.locator("#maps td[tabindex='0']").count() == 1
    page.keyboard.press("ArrowRight")
    assert page.locator("#readout").inner_text() == f"target 0, input {MINUS}2e37: reference 0"
    page.keyboard.press("ArrowUp")
    assert page.locator("#readout").inner_text().startswith(f"target {MINUS}0, input {MINUS}2e37")
    page.locator("input[name=quantity][value=loss]").focus()
    page.keyboard.press("ArrowRight")
    assert figures.count() == 1
    assert page.evaluate("document.activeElement.value") == "input"
    page.locator("input[name=kind][value=target]").focus()
    page.keyboard.press("ArrowRight")
    assert figures.count() == 0
    assert page.locator("#readout").inner_text() == "The reference has no such values."


@in_browser
def test_what_is_only_pointed_at_is_not_announced(open_page: Any) -> None:
    page = open_page().page
    said, cells = page.locator("#announced[role=status]"), page.locator("#maps td")
    cells.nth(20).hover()
    assert page.locator("#readout").inner_text() == cells.nth(20).get_attribute("aria-label").replace(
        ": ", ": reference "
    )
    assert said.text_content() == ""
    cells.nth(20).click()
    assert said.text_content() == page.locator("#readout").inner_text()
    assert page.locator("section[aria-labelledby=grids] :is([role=status], output)").count() == 1


@in_browser
def test_maps_of_kldiv_xp_alone_are_shown_when_asked_for(browser: Any, tmp_path: Path) -> None:
    half = {case: {"loss": values["loss"] / 2} for case, values in grids("torch").items()}
    judged = [
        Judgement("kldiv_xp jax [limit]", "1.0", None, (), grids=half),
        Judgement("kldiv_xp numpy [oneflow]", "1.0", None, (), grids=grids("oneflow")),
    ]
    file = tmp_path / "report.html"
    file.write_text(render_html(Run(judged, GROUPS, "reference", "digest", grids=grids("torch"))), encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    names, button = page.locator("#maps figcaption strong"), page.locator("#all-maps")
    assert names.all_inner_texts() == ["reference", "kldiv_xp numpy [oneflow]"]
    assert button.inner_text() == "Show all 3 maps"
    button.focus()
    page.keyboard.press("Enter")
    assert "kldiv_xp jax [limit]" in names.all_inner_texts()
    assert button.get_attribute("aria-expanded") == "true"
    page.keyboard.press("Enter")
    assert names.count() == 2
    page.close()


@in_browser
def test_ids_are_unique_and_links_within_the_page_lead_somewhere(open_page: Any) -> None:
    page = open_page().page
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
    assert len(ids) == len(set(ids))
    links = page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map(one => one.getAttribute('href').slice(1))"
    )
    assert set(links) <= set(ids)


CONTRASTS = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour.length === 3) return colour;
    }
  };
  const poor = [];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !one.checkVisibility() || one.matches("script, noscript, style")) continue;
    const [a, b] = [light(parse(getComputedStyle(one).color)), light(behind(one))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push([one.className, one.textContent.slice(0, 30), ratio]);
  }
  return poor;
}"""


@in_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(theme: str, open_page: Any) -> None:
    page = open_page(theme=theme).page
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate(CONTRASTS) == []


@pytest.mark.parametrize("render", [render_html, render_markdown], ids=["HTML", "Markdown"])
def test_a_report_says_first_whether_the_run_passes(render: Callable[[Run], str]) -> None:
    assert "Nothing differs that the ledger does not explain" in render(made_up(differs=False, implementations=5))
    assert re.search(r"\d+ comparisons differ", render(made_up(implementations=5)))
    nothing = Run([Judgement("absent", "", "no CUDA device", ())], GROUPS, "reference", "digest")
    assert not nothing.passes
    assert "Nothing was judged" in render(nothing)


def test_the_page_with_every_comparison_stays_small() -> None:
    assert len(render_html(made_up(each=267))) < 6_000_000


def test_whoever_parts_from_the_reference_alike_shares_a_map() -> None:
    view = grids_as_json(made_up(implementations=6, text="mute"))["views"]["float32/target/loss"]
    assert [one["names"] for one in view["maps"]] == [
        ["torch.nn.KLDivLoss mute", "implementation 1 [torch]", "implementation 2 [limit]"],
        [LONG, "implementation 0 [oneflow]"],
    ]


def test_maps_of_foreign_implementations_come_before_those_of_kldiv_xp() -> None:
    near = {case: {"loss": np.where(values["loss"] == 0, 1, values["loss"])} for case, values in grids("torch").items()}
    foreign = {case: {"loss": np.full_like(values["loss"], 7)} for case, values in grids("torch").items()}
    judged = [
        Judgement("kldiv_xp jax [limit]", "1.0", None, (), grids=near),
        Judgement("kldiv_xp jax [odd]", "1.0", None, (), grids=foreign),
        Judgement("foreign 1.0", "1.0", None, (), grids=foreign),
    ]
    maps = grids_as_json(Run(judged, GROUPS, "reference", "digest", grids=grids("torch")))
    names = [one["names"] for one in maps["views"]["float32/target/loss"]["maps"]]
    assert names == [["reference"], ["foreign 1.0", "kldiv_xp jax [odd]"], ["kldiv_xp jax [limit]"]]


def test_whoever_has_no_such_grid_is_named() -> None:
    odd = Judgement("odd", "1.0", None, (), grids={"edge/grid/float32/target/none": {"loss": np.zeros(3)}})
    absent = Judgement("absent", "", "no CUDA device", ())
    run = Run([odd, absent], GROUPS, "reference", "digest", grids=grids("torch"))
    assert grids_as_json(run)["views"]["float32/target/loss"]["without"] == ["odd", "absent"]


@pytest.mark.parametrize(
    "values", [np.zeros((3, 3)), np.zeros(324), np.zeros((18, 18), complex), np.zeros((18, 18), int)]
)
def test_a_grid_of_another_shape_or_kind_is_none(values: np.ndarray[Any, Any]) -> None:
    case = "edge/grid/float32/target/none"
    odd = {case: {"loss": values}}
    run = Run([Judgement("odd", "1.0", None, (), grids=odd)], GROUPS, "reference", "digest", grids=grids("torch"))
    assert grids_as_json(run)["views"]["float32/target/loss"]["without"] == ["odd"]
    assert grids_as_json(Run(run.judgements, GROUPS, "reference", "digest", grids=odd))["views"] == {}


@pytest.mark.parametrize("label", ["a[/red]b", "a[red]b", HOSTILE])
def test_the_terminal_takes_text_from_elsewhere_for_text(label: str) -> None:
    shown = StringIO()
    run = made_up(implementations=6, text=label)
    print_report(run, Console(file=shown, width=1000, color_system=None))
    text = shown.getvalue()
    text.encode("utf-8")
    assert "\x1b" not in text
    if label != HOSTILE:
        assert f"Conformance with torch.nn.KLDivLoss {label}" in text
        assert f"no CUDA device {label}: absent" in text
        assert any(line.strip("│ ").startswith(f"{label} ") for line in text.splitlines())


def test_the_terminal_has_a_row_for_each_foreign_implementation_and_each_library() -> None:
    made = tuple(comparisons(0, 4, (Verdict.AGREES, Verdict.DEVIATES)))
    labels = {"acme.loss 1.0": "acme 1.0"} | {f"kldiv_xp numpy, {way} [{c}]": "numpy 2.0" for way in "ab" for c in "xy"}
    run = Run([Judgement(label, v, None, made) for label, v in labels.items()], GROUPS, "reference", "digest")
    shown = {verbose: StringIO() for verbose in (False, True)}
    for verbose, file in shown.items():
        print_report(run, Console(file=file, width=140, color_system=None), verbose=verbose)
    rows = [line.strip("│ ").split("│")[0].strip() for line in shown[False].getvalue().splitlines() if "│" in line]
    assert rows == ["acme.loss 1.0", "kldiv_xp on numpy 2.0"]
    agree = sum(c.verdict == Verdict.AGREES for c in made)
    assert f"{4 * agree:,}" in shown[False].getvalue()
    assert "kldiv_xp numpy, a [x]" not in shown[False].getvalue()
    assert "kldiv_xp numpy, a [x]" in shown[True].getvalue()


def test_the_json_holds_each_text_once() -> None:
    run = made_up(implementations=30)
    report = render_json(run)
    case = run.judgements[0].comparisons[0].case
    assert report.count(f'"{case}"') == 1
    tables = json.loads(report)["comparisons"]
    first = next(i for i in tables["implementations"] if i["label"] == run.judgements[0].label)
    letters = Counter(tables["verdicts"][letter] for letter in first["letters"] if letter != ".")
    assert letters == Counter(c.verdict for c in run.judgements[0].comparisons)


@in_browser
def test_the_plot_has_room_for_the_longest_name_of_a_library(browser: Any) -> None:
    label = "optax.losses.kl_divergence_with_log_targets 0.2.8"
    judged = [Judgement(label, "1.0", None, tuple(comparisons(0, 4, (Verdict.AGREES,))))]
    page = browser.new_page()
    for plot in error_plots(judged).values():
        page.goto(plot.uri)
        name = page.locator("text", has_text=label)
        assert name.evaluate("one => one.getBoundingClientRect().left >= 0")
        assert name.evaluate("one => one.getBoundingClientRect().right <= document.documentElement.clientWidth")
    page.close()


@pytest.mark.parametrize("end", ["]", "(file.npz)"])
def test_the_plot_shows_both_ends_of_a_long_label(end: str) -> None:
    label = f"a name {'that goes on ' * 10}{end}"
    judged = [Judgement(label, "1.0", None, tuple(comparisons(0, 4, (Verdict.AGREES,))))]
    for plot in error_plots(judged).values():
        shown = b64decode(plot.uri.partition(",")[2]).decode()
        assert re.search(rf">a name that[a-z ]*…[a-z ]*{re.escape(end)}<", shown)


@pytest.mark.parametrize(
    ("environment", "shown", "source"),
    [
        ({"source": "live"}, "torch 2.13.0", "here"),
        ({"source": "recorded", "file": "some.npz"}, "torch 2.13.0 (recorded)", "recorded"),
        ({"source": "file", "file": "some.npz"}, "torch 2.13.0 (some.npz)", "recorded"),
    ],
)
def test_a_version_that_is_not_installed_here_says_where_it_comes_from(
    environment: dict[str, str], shown: str, source: str
) -> None:
    judged = [Judgement("label", "torch 2.13.0", None, tuple(comparisons(0, 4, (Verdict.AGREES,))), environment)]
    run, terminal = Run(judged, GROUPS, "reference", "digest"), StringIO()
    print_report(run, Console(file=terminal, width=1000))
    assert re.search(rf"label +│ {source} ", terminal.getvalue())
    for text in (render_html(run), render_markdown(run), render_junit(run)):
        assert re.findall(r"torch 2\.13\.0[^\n<|\"]*", text)[0].strip() == shown


@pytest.mark.parametrize("width", [80, 120, 180, 200])
def test_a_full_report_takes_at_most_60_lines_of_a_terminal(width: int) -> None:
    foreign = [i.label for i in every_implementation() if i.convention is None]
    labels = dict.fromkeys(foreign, "1.0") | {f"kldiv_xp library {n} [x]": f"library-{n} 1.0" for n in range(14)}
    ids = [e.id for e in DEVIATIONS if e.why.startswith("wrong")][:3]
    made = [Comparison(f"case {n}", "a", "loss", Verdict.DEVIATES, ledger=(ids[n % 3],)) for n in range(1000)]
    run = Run([Judgement(label, v, None, tuple(made)) for label, v in labels.items()], ["a"], "reference", "digest")
    terminal = StringIO()
    print_report(run, Console(file=terminal, width=width, color_system=None))
    reasons = 7  # not to run, a line each
    assert len(terminal.getvalue().splitlines()) + reasons + len(["html", "json", "summary", "passes"]) <= 60


def test_the_most_important_deviations_are_those_that_the_ledger_calls_wrong() -> None:
    entries = [next(e.id for e in DEVIATIONS if e.why.startswith("wrong") == wrong) for wrong in (False, True)]
    made = [Comparison(f"case {n}", "a", "loss", Verdict.DEVIATES, ledger=(entries[n == 0],)) for n in range(9)]
    run, terminal = (
        Run([Judgement("acme.loss 1.0", "1.0", None, tuple(made))], ["a"], "reference", "digest"),
        StringIO(),
    )
    print_report(run, Console(file=terminal, width=200))
    choice, wrong = (entry.replace("-", " ") for entry in entries)
    assert f"wrong: {wrong}; {choice}" in terminal.getvalue()
    card = render_html(run).partition('<dl class="entries">')[2].partition("</dl>")[0]
    assert re.findall(r'href="#ledger-([^"]*)', card) == entries[::-1]
    assert all(escape(next(e.why for e in DEVIATIONS if e.id == entry)) in card for entry in entries)


def test_only_web_addresses_in_evidence_become_links() -> None:
    link = '<a href="https://x.org/?a=b&amp;c" rel="noreferrer">https://x.org/?a=b&amp;c</a>'
    text = "a <b> (https://x.org/?a=b&c), javascript:alert(1)"
    assert str(linked(text)) == f"a &lt;b&gt; ({link}), javascript:alert(1)"


def test_junit_has_a_suite_for_each_implementation_and_a_test_for_each_comparison() -> None:
    run = made_up()
    suites = {suite.get("name", ""): suite for suite in ET.fromstring(render_junit(run))}
    assert len(suites) == len(run.judgements) + 1  # and the ledger's
    judgement = run.judgements[1]
    suite = suites[judgement.label]
    assert suite.get("tests") == str(len(judgement.comparisons)) == str(len(suite.findall("testcase")))
    assert suite.get("failures") == str(judgement.count(Verdict.DIFFERS)) == str(len(suite.findall("testcase/failure")))
    left_out = judgement.count(Verdict.UNSUPPORTED) + judgement.count(Verdict.NOT_RUN)
    assert suite.get("skipped") == str(left_out) == str(len(suite.findall("testcase/skipped")))
    assert len(suite.findall("testcase/system-out")) == judgement.count(Verdict.DEVIATES)


def test_junit_shows_what_was_not_run_as_skipped_with_the_reason() -> None:
    suites = ET.fromstring(render_junit(made_up()))
    (skipped,) = suites.findall("testsuite[@name='absent']/testcase/skipped")
    assert skipped.get("message", "").startswith("not run: no CUDA device")


def test_junit_fails_for_a_ledger_entry_that_explains_nothing() -> None:
    suites = ET.fromstring(render_junit(made_up()))
    assert suites.find(f"testsuite[@name='ledger']/testcase[@name='{DEVIATIONS[-1].id}']/failure") is not None


def test_junit_spells_out_characters_that_xml_cannot_hold() -> None:
    suites = ET.fromstring(render_junit(made_up()).encode("utf-8"))
    assert any("\\x00\\x1b[1m\\xd800" in suite.get("name", "") for suite in suites)


def test_markdown_takes_text_from_elsewhere_for_text() -> None:
    report = render_markdown(made_up())
    assert "<script" not in report
    assert "<img" not in report
    rows = [line for line in report.splitlines() if line.startswith("| ") and "window.ran" in line]
    assert len(rows) == 1
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == len(GROUPS) + 5
    assert not re.search(r"(?<!\\)`", rows[0])


def test_markdown_says_what_was_not_run_and_why() -> None:
    assert "- no CUDA device mute: absent" in render_markdown(made_up(text="mute"))
