"""Read HistFactory's XML and its ROOT files into workspaces of pyhf, by `pyhf.readxml`.

A top-level file (``<Combination>``) names a file for each channel, and these name histograms in
ROOT files. Paths lead nowhere but into the directory or archive that was given. XML is read by
expat, and an entity, which a HistFactory file never needs, is refused; the DTD that the files name
is not loaded. What `pyhf.readxml` would pass over in silence is refused by name, with file and
line. It then runs on copies, in a process with limits of time and memory: a ROOT file may be
anything.

What it does not read is added here: the threshold and type of the statistical uncertainties.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from xml.etree import ElementTree as ET
from xml.parsers import expat

from fitserve.errors import InputError, MissingExtraError
from fitserve.pallet.hs3 import constrained_bins
from fitserve.pallet.schema import decode_json, shorten
from fitserve_contract import memory_there

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fitserve.pallet.checks import Findings
    from fitserve.pallet.source import Files

__all__ = ["read_histfactory"]

_TOP = re.compile(rb"<Combination[\s>]")
_LARGEST_XML = 16 * 1024**2
_DEEPEST = 8
_SECONDS = 300
_MEMORY = 8 * 1024**3
# ROOT's, since 6.22, where no StatErrorConfig says otherwise.
_THRESHOLD, _CONSTRAINT = 0.05, "Poisson"
_HISTOGRAM = ("InputFile", "HistoPath", "HistoName")
# By the name of an element: what it must have, what it may have, and what may be in it.
_GRAMMAR: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "Combination": (("OutputFilePrefix",), ("Mode",), ("Input", "Measurement")),
    "Input": ((), (), ()),
    "Measurement": (
        ("Name", "Lumi", "LumiRelErr"),
        ("BinLow", "BinHigh", "Mode", "ExportOnly"),
        ("POI", "ParamSetting"),
    ),
    "POI": ((), (), ()),
    "ParamSetting": ((), ("Val", "Const"), ()),
    "Channel": (("Name",), _HISTOGRAM, ("Data", "StatErrorConfig", "Sample")),
    "Data": ((), _HISTOGRAM, ()),
    "StatErrorConfig": ((), ("RelErrorThreshold", "ConstraintType"), ()),
    "Sample": (
        ("Name",),
        (*_HISTOGRAM, "NormalizeByTheory"),
        ("StatError", "HistoSys", "OverallSys", "ShapeSys", "NormFactor", "ShapeFactor"),
    ),
    "StatError": (("Activate",), _HISTOGRAM, ()),
    "HistoSys": (
        ("Name",),
        (
            *_HISTOGRAM,
            *(f"Histo{what}{end}" for end in ("Low", "High") for what in ("File", "Path", "Name")),
        ),
        (),
    ),
    "OverallSys": (("Name", "Low", "High"), (), ()),
    "ShapeSys": (("Name",), (*_HISTOGRAM, "ConstraintType"), ()),
    "NormFactor": (("Name", "Val", "Low", "High"), ("Const",), ()),
    "ShapeFactor": (("Name",), (), ()),
}


class _Element(NamedTuple):
    """An element of a file, and where it is."""

    tag: str
    attributes: dict[str, str]
    file: str
    line: int
    children: list[_Element]
    text: list[str]

    @property
    def words(self) -> list[str]:
        """The words between its tags."""
        return "".join(self.text).split()

    def all(self, tag: str) -> list[_Element]:
        """Return the elements of that name that are in it."""
        return [one for one in self.children if one.tag == tag]

    def refuse(self, cause: str, evidence: str = "") -> NoReturn:
        """Raise the error for what is wrong with it."""
        label = self.attributes.get("Name")
        name = f"{self.tag} {shorten(label, 60)!r}" if label else self.tag
        raise InputError(
            f"{self.file}: {cause}",
            evidence=f"line {self.line}, {name}" + (f": {evidence}" if evidence else ""),
            hint="compare it with HistFactorySchema.dtd of ROOT",
        )

    def number(self, name: str) -> float:
        """Return an attribute that is a finite number."""
        text = self.attributes[name]
        value = math.nan
        with contextlib.suppress(ValueError):
            value = float(text)
        if not math.isfinite(value):
            self.refuse(f"{name} is no number", repr(shorten(text)))
        return value

    def flag(self, name: str) -> bool:
        """Return whether an attribute is true; without it, it is not."""
        text = self.attributes.get(name, "False").strip().lower()
        if text not in ("true", "false", "1", "0", ""):
            self.refuse(f"{name} is neither True nor False", repr(shorten(text)))
        return text in ("true", "1")


def read_histfactory(files: Files, findings: Findings) -> dict[str, bytes]:
    """Return the workspaces of all top-level XML files, as JSON by their paths.

    Parameters
    ----------
    files
        Those of the directory or archive that are no JSON.
    findings
        Takes what is not the same model in pyhf.

    Raises
    ------
    InputError
        The XML is not HistFactory's or is not whole, or asks for what pyhf does not have.
    MissingExtraError
        uproot is not installed.
    """
    names = [name for name in files.names if name.lower().endswith(".xml")]
    tops = {name: raw for name, raw in files.read(names).items() if _TOP.search(raw[:_LARGEST_XML])}
    if not tops:
        return {}
    plans = [_Plan(_parsed(raw, name), files, findings) for name, raw in tops.items()]
    with tempfile.TemporaryDirectory(prefix="fitserve-") as folder:
        copies = _Copies(Path(folder), files)
        for index, plan in enumerate(plans):
            plan.write(index, copies)
        copies.close()
        made = _converted(folder, len(plans), copies)
    return {
        f"{plan.top.file[: -len('.xml')]}.json": json.dumps(plan.finished(workspace)).encode()
        for plan, workspace in zip(plans, made, strict=True)
    }


def _parsed(raw: bytes, where: str) -> _Element:
    """Parse one file; an error says the line."""
    if len(raw) > _LARGEST_XML:
        raise InputError(
            f"{where} is larger than any HistFactory file", evidence=f"{len(raw)} bytes"
        )
    parser = expat.ParserCreate()
    root = _Element("", {}, where, 0, [], [])
    open_: list[_Element] = [root]

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = _Element(tag, attributes, where, parser.CurrentLineNumber, [], [])
        _check(element, open_[-1])
        open_[-1].children.append(element)
        open_.append(element)
        if len(open_) > _DEEPEST:
            element.refuse("elements are nested too deeply")

    def characters(text: str) -> None:
        open_[-1].text.append(text)

    def entity(*_: object) -> None:
        line = parser.CurrentLineNumber
        raise InputError(
            f"{where} declares an entity, which no HistFactory file needs and which could do harm",
            evidence=f"line {line}",
            hint="write what it stands for in its place, if you trust where the file comes from",
        )

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: open_.pop()
    parser.CharacterDataHandler = characters
    parser.EntityDeclHandler = entity
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    try:
        parser.Parse(raw, True)  # noqa: FBT003 - positional only
    except expat.ExpatError as error:
        raise InputError(
            f"{where} is not XML", evidence=f"line {error.lineno}: {expat.ErrorString(error.code)}"
        ) from error
    return root.children[0]


def _check(element: _Element, parent: _Element) -> None:
    """Refuse an element or attribute that is not HistFactory's or that pyhf does not have."""
    tag = element.tag
    allowed = _GRAMMAR[parent.tag][2] if parent.tag else ("Combination", "Channel")
    if tag in ("ConstraintTerm", "Function", "HistoFactor"):
        element.refuse(f"pyhf does not have a {tag}")
    if tag not in allowed:
        element.refuse(f"there is no {shorten(tag, 60)} in a {parent.tag or 'HistFactory file'}")
    needed, optional, _ = _GRAMMAR[tag]
    if missing := [name for name in needed if name not in element.attributes]:
        element.refuse(f"{missing[0]} is missing")
    if unknown := [name for name in element.attributes if name not in (*needed, *optional)]:
        element.refuse(f"a {tag} has no attribute {shorten(unknown[0], 60)}")


class _Histogram(NamedTuple):
    """A histogram that an element names."""

    file: str
    name: str
    asked: _Element


class _Plan:
    """What one top-level file asks for, checked, with the files of its channels."""

    def __init__(self, top: _Element, files: Files, findings: Findings) -> None:
        self.top = top
        self.findings = findings
        if top.tag != "Combination":
            top.refuse("a top-level file is a Combination")
        folder = PurePosixPath(top.file).parent
        # HistFactory starts where the paths begin: at the file, or in a directory above it.
        self.bases = [folder, *folder.parents]
        self.files = files
        inputs = [(one, self.find(one, "".join(one.text).strip())) for one in top.all("Input")]
        contents = files.read([path for _, path in inputs])
        self.channels = [_parsed(contents[path], path) for _, path in inputs]
        if not self.channels or not top.all("Measurement"):
            top.refuse("there is no channel or no measurement")
        for channel in self.channels:
            if channel.tag != "Channel":
                channel.refuse("an Input is not a Channel")
            if len(channel.all("Data")) != 1:
                channel.refuse("a channel needs one Data", "pyhf makes no Asimov data instead")
        for measurement in top.all("Measurement"):
            self._check_measurement(measurement)
        for channel in self.channels:
            self._check_channel(channel)

    def find(self, element: _Element, path: str) -> str:
        """Return the file that a path of the XML leads to, in what was given."""
        parts = PurePosixPath(path).parts
        if not parts or ".." in parts or "\0" in path:
            element.refuse("a path is empty or leads up", repr(shorten(path)))
        # An absolute path was right elsewhere: its end is looked for here.
        absolute = parts[0] == "/"
        ends = [parts[start:] for start in range(1, len(parts))] if absolute else [parts]
        names = (base.joinpath(*end).as_posix() for end in ends for base in self.bases)
        found = next(filter(self.files.has, names), None)
        if found is None:
            element.refuse(
                "a file that it names is not in what was given",
                f"{shorten(path)!r}; give the directory that has all of them",
            )
        return found

    def _check_measurement(self, measurement: _Element) -> None:
        if len(measurement.all("POI")) != 1:
            measurement.refuse("a measurement needs one POI")
        if len(measurement.all("POI")[0].words) > 1:
            measurement.refuse("pyhf has one parameter of interest")
        if measurement.number("Lumi") <= 0 or measurement.number("LumiRelErr") < 0:
            measurement.refuse("the luminosity is not positive, or its uncertainty negative")
        for setting in measurement.all("ParamSetting"):
            if setting.attributes.get("Val"):
                setting.number("Val")
            setting.flag("Const")
            if gammas := [one for one in setting.words if one.startswith("gamma_")]:
                setting.refuse("pyhf does not hold single bins", gammas[0])

    def _check_channel(self, channel: _Element) -> None:
        gaussian: set[str] = set()
        for config in channel.all("StatErrorConfig"):
            if "RelErrorThreshold" in config.attributes:
                config.number("RelErrorThreshold")
            self._constraint(config)
        for sample in channel.all("Sample"):
            if not sample.flag("NormalizeByTheory"):
                self.findings.note(
                    "samples without NormalizeByTheory have no uncertainty of luminosity here, as "
                    "documented; ROOT itself scales them with it",
                    f"{channel.file}, sample {sample.attributes['Name']!r}",
                )
            for one in sample.children:
                for name in ("Low", "High", "Val"):
                    if name in one.attributes:
                        one.number(name)
                if one.tag == "ShapeSys" and self._constraint(one) == "Gauss":
                    name = one.attributes["Name"]
                    if name in gaussian:
                        one.refuse("a Gaussian ShapeSys is shared by samples")
                    gaussian.add(name)

    def _constraint(self, element: _Element) -> str:
        text = element.attributes.get("ConstraintType") or _CONSTRAINT
        known = {"gaussian": "Gauss", "gauss": "Gauss", "poisson": "Poisson"}
        if text.lower() not in known:
            element.refuse("a constraint is neither Gaussian nor Poisson", repr(shorten(text)))
        return known[text.lower()]

    def write(self, index: int, copies: _Copies) -> None:
        """Write what pyhf reads: copies with every path, default and number in full."""
        top = ET.Element("Combination", OutputFilePrefix="")
        for number, channel in enumerate(self.channels):
            name = f"t{index}c{number}.xml"
            ET.SubElement(top, "Input").text = name
            copies.write(name, self._channel(channel, copies))
        for measurement in self.top.all("Measurement"):
            copied = ET.SubElement(
                top, "Measurement", _only(measurement, "Name", "Lumi", "LumiRelErr")
            )
            ET.SubElement(copied, "POI").text = " ".join(measurement.all("POI")[0].words)
            for setting in measurement.all("ParamSetting"):
                attributes = {"Val": setting.attributes.get("Val", "")}
                if "Const" in setting.attributes:
                    attributes["Const"] = str(setting.flag("Const"))
                if setting.words:
                    ET.SubElement(copied, "ParamSetting", attributes).text = " ".join(setting.words)
        copies.write(f"t{index}.xml", top)

    def _channel(self, channel: _Element, copies: _Copies) -> ET.Element:
        usual = {name: channel.attributes.get(name, "") for name in _HISTOGRAM}
        copied = ET.Element("Channel", Name=channel.attributes["Name"])
        data = self._histogram(channel.all("Data")[0], usual, copies)
        ET.SubElement(copied, "Data", InputFile=data[0], HistoName=data[1])
        for sample in channel.all("Sample"):
            own = usual | {
                name: sample.attributes[name] for name in _HISTOGRAM if sample.attributes.get(name)
            }
            file, name = self._histogram(sample, usual, copies)
            attributes = {"Name": sample.attributes["Name"], "InputFile": file, "HistoName": name}
            attributes["NormalizeByTheory"] = str(sample.flag("NormalizeByTheory"))
            inner = ET.SubElement(copied, "Sample", attributes)
            for one in sample.children:
                self._modifier(one, own, inner, copies)
        return copied

    def _modifier(
        self, one: _Element, own: dict[str, str], inner: ET.Element, copies: _Copies
    ) -> None:
        copied = ET.SubElement(inner, one.tag, _only(one, "Name", "Low", "High", "Val"))
        if one.tag == "NormFactor" and "Const" in one.attributes:
            copied.set("Const", str(one.flag("Const")))
        elif one.tag == "StatError":
            copied.set("Activate", str(one.flag("Activate")))
            if one.attributes.get("HistoName") and one.flag("Activate"):
                file, name = self._histogram(one, own, copies)
                copied.attrib |= {"HistoFile": file, "HistoName": name}
        elif one.tag == "ShapeSys":
            file, name = self._histogram(one, own | {"HistoName": ""}, copies)
            copied.attrib |= {"InputFile": file, "HistoName": name}
        elif one.tag == "HistoSys":
            for end in ("Low", "High"):
                given = {
                    "InputFile": one.attributes.get(f"HistoFile{end}")
                    or one.attributes.get("InputFile"),
                    "HistoPath": one.attributes.get(f"HistoPath{end}")
                    or one.attributes.get("HistoPath"),
                    "HistoName": one.attributes.get(f"HistoName{end}"),
                }
                said = {key: value for key, value in given.items() if value}
                ended = one._replace(attributes={"Name": one.attributes["Name"], **said})
                file, name = self._histogram(ended, own | {"HistoName": ""}, copies)
                copied.attrib |= {f"HistoFile{end}": file, f"HistoName{end}": name}

    def _histogram(
        self, element: _Element, usual: dict[str, str], copies: _Copies
    ) -> tuple[str, str]:
        """Return the copy of the ROOT file, and the whole path of the histogram in it."""
        file, path, name = (element.attributes.get(one) or usual[one] for one in _HISTOGRAM)
        if not file or not name:
            element.refuse("a histogram has no InputFile or no HistoName")
        whole = "/".join(part for part in f"{path}/{name}".split("/") if part)
        return copies.root(_Histogram(self.find(element, file), whole, element)), whole

    def finished(self, workspace: dict[str, Any]) -> dict[str, Any]:
        """Return pyhf's workspace with what `pyhf.readxml` does not read."""
        for channel, content in zip(self.channels, workspace["channels"], strict=True):
            self._constrain(channel, content)
        relative = [one.number("LumiRelErr") for one in self.top.all("Measurement")]
        types = {
            modifier["type"]
            for channel in workspace["channels"]
            for sample in channel["samples"]
            for modifier in sample["modifiers"]
        }
        for error, measurement in zip(relative, workspace["measurements"], strict=True):
            parameters = measurement["config"]["parameters"]
            if "lumi" not in types:
                parameters[:] = [one for one in parameters if one["name"] != "lumi"]
            elif error == 0:
                # Held, so that no width of the constraint matters.
                lumi = parameters[0]
                lumi |= {"sigmas": [1.0], "fixed": True}
                lumi["bounds"] = [[0.0, 2 * lumi["inits"][0]]]
        return workspace

    def _constrain(self, channel: _Element, content: dict[str, Any]) -> None:
        """Put the threshold and types of constraints of a channel into effect."""
        place = f"{channel.file}, channel {channel.attributes['Name']!r}"
        name = f"staterror_{channel.attributes['Name']}"
        samples, errors = [], []
        for element, sample in zip(channel.all("Sample"), content["samples"], strict=True):
            gaussian = {
                one.attributes["Name"]
                for one in element.all("ShapeSys")
                if self._constraint(one) == "Gauss"
            }
            for modifier in [*sample["modifiers"]]:
                if modifier["type"] == "staterror":
                    sample["modifiers"].remove(modifier)
                    samples.append(sample)
                    errors.append(modifier["data"])
                elif modifier["type"] == "shapesys" and modifier["name"] in gaussian:
                    modifier["type"] = "staterror"
        config = next(iter(channel.all("StatErrorConfig")), None)
        threshold, constraint = _THRESHOLD, _CONSTRAINT
        if config is not None:
            constraint = self._constraint(config)
            if "RelErrorThreshold" in config.attributes:
                threshold = config.number("RelErrorThreshold")
        totals = [sum(column) for column in zip(*(one["data"] for one in samples), strict=True)]
        widths = [math.hypot(*column) for column in zip(*errors, strict=True)]
        kept = [
            total > 0 and width >= threshold * total
            for total, width in zip(totals, widths, strict=True)
        ]
        held = [[e if keep else 0.0 for e, keep in zip(one, kept, strict=True)] for one in errors]
        constrained_bins(name, constraint, samples, held, self.findings, place)


def _only(element: _Element, *names: str) -> dict[str, str]:
    return {name: element.attributes[name] for name in names if name in element.attributes}


class _Copies:
    """The directory of copies that pyhf reads, with names of our own."""

    def __init__(self, folder: Path, files: Files) -> None:
        self._folder = folder
        self._files = files
        self._roots: dict[str, str] = {}
        self.histograms: list[_Histogram] = []

    def write(self, name: str, element: ET.Element) -> None:
        """Write an XML file."""
        (self._folder / name).write_bytes(ET.tostring(element))

    def root(self, histogram: _Histogram) -> str:
        """Return the name of the copy of a ROOT file."""
        self.histograms.append(histogram)
        return self._roots.setdefault(histogram.file, f"r{len(self._roots)}.root")

    def close(self) -> None:
        """Write the ROOT files."""
        for name, raw in self._files.read(self._roots).items():
            (self._folder / self._roots[name]).write_bytes(raw)


def _converted(folder: str, count: int, copies: _Copies) -> list[dict[str, Any]]:
    """Return the workspaces that pyhf makes of the copies, in a process of its own."""
    memory = max(2 * 1024**3, min(_MEMORY, memory_there() // 2))
    command = [sys.executable, "-W", "ignore", "-c", _CHILD, str(count), str(memory), str(_SECONDS)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=folder, env=environment, capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            "the ROOT files cannot be read", evidence=f"it took longer than {_SECONDS} s"
        ) from error
    if done.returncode == _MISSING:
        raise MissingExtraError("reading ROOT files", "root")
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it was killed"]
        raise InputError("the ROOT files cannot be read", evidence=shorten(last[0], 200))
    answer: list[dict[str, Any]] = decode_json(done.stdout, "the histograms")
    for one in answer:
        if "error" in one:
            _refuse_histogram(one["error"], copies.histograms)
    return [one["workspace"] for one in answer]


def _refuse_histogram(error: str, histograms: Iterable[_Histogram]) -> NoReturn:
    """Raise pyhf's error, with file and line where it is of a histogram."""
    for one in histograms:
        if f"Both {one.name} " in error:
            one.asked.refuse("a histogram is not in its file", f"{one.name!r} in {one.file}")
    raise InputError("the HistFactory files cannot be read", evidence=shorten(error, 200))


_MISSING = 77
_CHILD = f"""
import json, logging, resource, sys
count, memory, seconds = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
try:
    from pyhf import readxml
except ImportError:
    sys.exit({_MISSING})
logging.disable()
answer = []
for index in range(count):
    try:
        made = readxml.parse(f"t{{index}}.xml", ".", validation_as_error=False)
        answer.append({{"workspace": made}})
    except Exception as error:
        answer.append({{"error": f"{{type(error).__name__}}: {{error}}"}})
json.dump(answer, sys.stdout)
"""
