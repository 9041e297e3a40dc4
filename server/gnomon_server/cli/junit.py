"""A report as JUnit XML, as continuous integration shows it: a test for each thing that the policy asks for."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from gnomon_protos import control_pb2


def of(report: control_pb2.Report) -> str:
    """Returns the document."""
    verdict, found = report.verdict, report.verdict.findings
    passed = verdict.decision == "promote"
    failures = sum(one.state != "holds" for one in found) + (not passed)
    name = f"gnomon gate {report.model} {report.shadow}"
    suite = ET.Element("testsuite", name=name, tests=str(len(found) + 1), failures=str(failures), errors="0")
    properties = ET.SubElement(suite, "properties")
    values = {
        "primary": f"{report.primary} {report.primary_digest}",
        "version": f"{report.shadow} {report.shadow_digest}",
        "policy": verdict.policy_digest,
    }
    for key, value in values.items():
        ET.SubElement(properties, "property", name=key, value=value)
    for one in found:
        bounds = f"{one.estimate:.2%}, between {one.low:.2%} and {one.high:.2%}, allowed {one.limit:.2%}"
        _case(suite, report, one.metric, one.state == "holds", one.state, bounds)
    _case(suite, report, "verdict", passed, verdict.decision, verdict.reason)
    ET.indent(suite)
    return ET.tostring(suite, "unicode", xml_declaration=True) + "\n"


def _case(suite: ET.Element, report: control_pb2.Report, name: str, passed: bool, kind: str, text: str) -> None:
    case = ET.SubElement(suite, "testcase", classname=f"{report.model}.{report.shadow}", name=name)
    if passed:
        ET.SubElement(case, "system-out").text = text
    else:
        ET.SubElement(case, "failure", type=kind, message=text)
