"""The verdicts of a run as JUnit XML, for what shows the results of tests."""

import re
from xml.etree import ElementTree as ET

from conformance.judge import Comparison, Verdict
from conformance.report.contents import LEFT_OUT, Run, version_and_source
from conformance.run import Judgement

DECLARATION = '<?xml version="1.0" encoding="utf-8"?>'

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(run: Run) -> str:
    """A suite for each implementation with a test for each comparison, and one for ledger entries that are unused."""
    root = ET.Element("testsuites", name=_text(f"conformance with {run.reference}"))
    for judgement in run.judgements:
        root.append(_suite(judgement))
    if run.unused:
        suite = _with_counts(ET.Element("testsuite", name="ledger"), tests=len(run.unused), failures=len(run.unused))
        for entry in run.unused:
            test = ET.SubElement(suite, "testcase", classname="ledger", name=_text(entry))
            ET.SubElement(test, "failure", message="explains nothing")
        root.append(suite)
    ET.indent(root, space="")
    return f"{DECLARATION}\n{ET.tostring(root, encoding='unicode')}\n"


def _suite(judgement: Judgement) -> ET.Element:
    suite = ET.Element("testsuite", name=_text(judgement.label))
    properties = ET.SubElement(suite, "properties")
    for name, value in {**judgement.environment, "version": version_and_source(judgement)}.items():
        ET.SubElement(properties, "property", name=_text(name), value=_text(value))
    if judgement.not_run is not None:
        test = ET.SubElement(suite, "testcase", classname=_text(judgement.label), name="all cases")
        ET.SubElement(test, "skipped", message=_text(f"not run: {judgement.not_run}"))
        return _with_counts(suite, tests=1, skipped=1)
    for comparison in judgement.comparisons:
        suite.append(_test(judgement.label, comparison))
    skipped = sum(judgement.count(verdict) for verdict in LEFT_OUT)
    return _with_counts(
        suite, tests=len(judgement.comparisons), failures=judgement.count(Verdict.DIFFERS), skipped=skipped
    )


def _test(label: str, comparison: Comparison) -> ET.Element:
    classname = _text(f"{label}.{comparison.group}")
    test = ET.Element("testcase", classname=classname, name=_text(f"{comparison.case} {comparison.quantity}"))
    if comparison.verdict == Verdict.DIFFERS:
        ET.SubElement(test, "failure", message=_text(comparison.detail))
    elif comparison.verdict in LEFT_OUT:
        ET.SubElement(test, "skipped", message=_text(f"{comparison.verdict}: {comparison.detail}"))
    elif comparison.verdict == Verdict.DEVIATES:
        ET.SubElement(test, "system-out").text = _text(f"deviates: {', '.join(comparison.ledger)}")
    return test


def _with_counts(suite: ET.Element, *, tests: int, failures: int = 0, skipped: int = 0) -> ET.Element:
    for name, count in (("tests", tests), ("failures", failures), ("errors", 0), ("skipped", skipped)):
        suite.set(name, str(count))
    return suite


def _text(text: str) -> str:
    """Text with escapes for the characters that XML cannot hold."""
    return _NOT_XML.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
