"""Make tests/pallet/histfactory with ROOT: XML, histograms as text, HS3, and ROOT's own numbers.

Usage: .cache/root-venv/bin/python tests/pallet/make_histfactory.py     (make root-venv)
       .cache/root-venv/bin/python tests/pallet/make_histfactory.py evaluate HS3 POINTS

The second prints, as JSON, ROOT's negative logarithms of an HS3 file's likelihood at points.
"""

import json
import os
import random
import sys
import tempfile
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
import ROOT  # noqa: E402

OUT = Path(__file__).parent / "histfactory"
ROOT_FILE = "data/histograms.root"
# Contents, and errors where there are any. What both samples of a bin have together is a number of
# few digits, as are the errors that ROOT derives from it: HS3 has only seven. Gaussian constraints
# are narrow: ROOT normalises wide ones over global observables above zero.
HISTOGRAMS = {
    "SR": {
        "data": [[82.0, 31.0, 22.0]],
        "signal": [[3.0, 6.0, 9.0]],
        "bkg": [[40.0, 12.0, 8.0], [2.8, 1.68, 0.224]],
        "bkg_jes_up": [[43.0, 12.6, 7.7]],
        "bkg_jes_down": [[38.0, 11.5, 8.1]],
        "bkg_theory_up": [[41.0, 11.0, 8.6]],
        "bkg_theory_down": [[39.5, 13.0, 7.5]],
        "fake": [[30.0, 9.0, 6.0], [2.1, 1.26, 0.168]],
        "fake_shape": [[0.2, 0.3, 0.4]],
    },
    "CR": {
        "data": [[222.0, 108.0]],
        "bkg": [[200.0, 100.0], [6.0, 4.0]],
        "bkg_jes_up": [[207.0, 101.0]],
        "bkg_jes_down": [[195.0, 99.0]],
        "qcd": [[10.0, 5.0]],
        "other": [[4.0, 2.0]],
        "other_shape": [[0.1, 0.12]],
    },
}
KEPT = []


def keep(made):
    """Return an object that ROOT refers to after Python has forgotten it."""
    KEPT.append(made)
    return made


def write_histograms():
    """Write the ROOT file."""
    file = ROOT.TFile(ROOT_FILE, "RECREATE")
    for channel, histograms in HISTOGRAMS.items():
        file.mkdir(channel).cd()
        for name, (contents, *errors) in histograms.items():
            histogram = ROOT.TH1D(name, name, len(contents), 0, len(contents))
            for index, value in enumerate(contents, 1):
                histogram.SetBinContent(index, value)
                histogram.SetBinError(index, errors[0][index - 1] if errors else 0.0)
            histogram.Write()
    file.Close()


def measurement():
    """Return the measurement: every modifier, and constraints of both types."""
    factory = ROOT.RooStats.HistFactory
    made = keep(factory.Measurement("main", "main"))
    made.SetOutputFilePrefix("./results/model")
    made.SetPOI("mu")
    made.SetLumi(1.0)
    made.SetLumiRelErr(0.02)
    made.AddConstantParam("alpha_held")

    def channel(name, threshold, constraint):
        one = keep(factory.Channel(name, ROOT_FILE))
        one.SetHistoPath(name)
        one.SetData("data", ROOT_FILE, name)
        one.SetStatErrorConfig(threshold, constraint)
        return one

    def sample(name, where):
        one = keep(factory.Sample(name, name, ROOT_FILE, where))
        one.SetNormalizeByTheory(True)
        return one

    def shape(one, name, where):
        low, high = f"bkg_{name}_down", f"bkg_{name}_up"
        one.AddHistoSys(name, low, ROOT_FILE, where, high, ROOT_FILE, where)

    region = channel("SR", 0.03, "Gaussian")
    signal = sample("signal", "SR")
    signal.AddOverallSys("xs", 0.9, 1.15)
    signal.AddNormFactor("mu", 1, 0, 10)
    background = sample("bkg", "SR")
    background.ActivateStatError()
    background.AddOverallSys("jes", 0.95, 1.06)
    background.AddOverallSys("held", 0.9, 1.1)
    shape(background, "jes", "SR")
    shape(background, "theory", "SR")
    fake = sample("fake", "SR")
    fake.ActivateStatError()
    poisson, gaussian = factory.Constraint.Poisson, factory.Constraint.Gaussian
    fake.AddShapeSys("fakeshape", poisson, "fake_shape", ROOT_FILE, "SR")
    fake.AddNormFactor("kfake", 1, 0.5, 2)
    for one in (signal, background, fake):
        region.AddSample(one)
    made.AddChannel(region)

    control = channel("CR", 0.01, "Poisson")
    background = sample("bkg", "CR")
    background.ActivateStatError()
    background.AddOverallSys("jes", 0.97, 1.02)
    shape(background, "jes", "CR")
    qcd = sample("qcd", "CR")
    qcd.AddShapeFactor("qshape")
    other = sample("other", "CR")
    other.AddShapeSys("othershape", gaussian, "other_shape", ROOT_FILE, "CR")
    for one in (background, qcd, other):
        control.AddSample(one)
    made.AddChannel(control)
    return made


def model_of(workspace):
    """Return the model, its configuration and the observed data."""
    configs = [
        one for one in workspace.allGenericObjects() if isinstance(one, ROOT.RooStats.ModelConfig)
    ]
    return workspace["simPdf"], configs[-1], workspace.data("obsData")


def likelihood_of(workspace):
    """Return the negative logarithm of the likelihood of the observed data."""
    model, config, data = model_of(workspace)
    return keep(model.createNLL(data, GlobalObservables=config.GetGlobalObservables()))


def evaluate(workspace, points):
    """Return the negative logarithm of the likelihood at points."""
    likelihood = likelihood_of(workspace)
    values = []
    for point in points:
        for name, value in point.items():
            workspace.var(name).setVal(value)
        values.append(likelihood.getVal())
    return values


def random_points(workspace, number=12):
    """Return points around where parameters start."""
    chosen = random.Random(7)  # noqa: S311 - repeatable, no secret
    spread = {"mu": 0.9, "Lumi": 0.04, "kfake": 0.3}
    free = [one for one in likelihood_of(workspace).getVariables() if not one.isConstant()]
    points = []
    for _ in range(number):
        point = {}
        for one in sorted(free, key=lambda each: each.GetName()):
            name = one.GetName()
            width = 1.7 if name.startswith("alpha_") else spread.get(name, 0.1)
            middle = 0.0 if name.startswith("alpha_") else 1.0
            at = middle + chosen.uniform(-width, width)
            point[name] = min(max(at, one.getMin()), one.getMax())
        points.append(point)
    return points


def fits(workspace):
    """Return the best fit, and CLs of mu = 1 by the asymptotic formulae."""
    _, config, data = model_of(workspace)
    minimizer = keep(ROOT.RooMinimizer(likelihood_of(workspace)))
    minimizer.setPrintLevel(-1)
    minimizer.setStrategy(2)
    # ROOT's own tolerance leaves free factors of bins some 1e-4 from the minimum.
    minimizer.setEps(1e-6)
    minimizer.minimize("Minuit2", "migrad")
    best = {one.GetName(): one.getVal() for one in minimizer.save().floatParsFinal()}
    poi = config.GetParametersOfInterest().first()
    both, alone = keep(config.Clone("both")), keep(config.Clone("alone"))
    for hypothesis, value in ((both, 1.0), (alone, 0.0)):
        poi.setVal(value)
        hypothesis.SetSnapshot(ROOT.RooArgSet(poi))
    ROOT.RooStats.AsymptoticCalculator.SetPrintLevel(-1)
    calculator = ROOT.RooStats.AsymptoticCalculator(data, alone, both)
    calculator.SetOneSided(True)
    result = calculator.GetHypoTest()
    result.SetBackgroundAsAlt(True)
    sigma = ROOT.RooStats.AsymptoticCalculator.GetExpectedPValues
    null, alternate = result.NullPValue(), result.AlternatePValue()
    expected = [sigma(null, alternate, number, True) for number in range(-2, 3)]
    return {"fit": best, "CLs_obs": result.CLs(), "CLs_exp": expected}


def read(path):
    """Return the workspace of an HS3 file."""
    workspace = keep(ROOT.RooWorkspace("read"))
    if not ROOT.RooJSONFactoryWSTool(workspace).importJSON(str(path)):
        raise SystemExit(f"ROOT does not read {path}")
    return workspace


def main():
    """Write all files."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in ("config", "data", "results"):
            Path(name).mkdir()
        write_histograms()
        made = measurement()
        made.PrintXML("config", "./results/model")
        made.CollectHistograms()
        workspace = keep(ROOT.RooStats.HistFactory.MakeModelAndMeasurementFast(made))
        ROOT.RooJSONFactoryWSTool(workspace).exportJSON("hs3.json")
        (OUT / "config").mkdir(parents=True, exist_ok=True)
        for path in Path("config").glob("*.xml"):
            # Its comment is the date.
            text = path.read_text().split("-->", 1)[1]
            lines = [line.rstrip() for line in text.splitlines() if line.strip()]
            (OUT / "config" / path.name).write_text("\n".join(lines) + "\n")
        content = json.loads(Path("hs3.json").read_text())
        points = random_points(workspace)
        numbers = {
            "ROOT": str(ROOT.gROOT.GetVersion()),
            "points": points,
            "nll": evaluate(workspace, points),
            **fits(workspace),
        }
        for name, one in {"hs3": content, "histograms": HISTOGRAMS, "root": numbers}.items():
            (OUT / f"{name}.json").write_text(json.dumps(one, indent=1) + "\n")


if __name__ == "__main__":
    ROOT.RooMsgService.instance().setGlobalKillBelow(ROOT.RooFit.ERROR)
    if sys.argv[1:2] == ["evaluate"]:
        # ROOT prints to standard output.
        output = os.dup(1)
        os.dup2(2, 1)
        values = evaluate(read(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text()))
        os.write(output, json.dumps(values).encode())
    else:
        main()
    # ROOT and Python do not agree on who deletes a measurement.
    sys.stdout.flush()
    os._exit(0)
