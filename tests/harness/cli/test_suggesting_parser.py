"""Bare command, version, and what mistyped commands, choices and options say."""

import pytest

from harness.cli.commands import main


def test_the_bare_command_prints_its_help(capsys):
    assert main([]) == 0
    assert "run" in capsys.readouterr().out


def test_the_version_is_shown(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("harness 0.")


@pytest.mark.parametrize(("arguments", "said"), [
    (["rn"], "'rn' is unknown; the nearest are run"),
    (["analyze", "x.csv"], "'analyze' is unknown; the nearest are analyse"),
    (["run", "quickstart", "--protocol", "stric"], "'stric' is unknown; the nearest are strict"),
    (["run", "quickstart", "--protcol", "strict"],
     "unrecognized arguments: --protcol strict; the nearest are --protocol"),
    (["run", "quickstart", "--modl=x"], "--modl=x; the nearest are --model"),
    (["tables", "--jsn"], "harness tables: error: unrecognized arguments: --jsn; the nearest are --json"),
    (["xyzzy"], "invalid choice: 'xyzzy'"),
])  # fmt: skip
def test_errors_name_what_was_probably_meant(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
