"""What the tests of the command line share."""

from glam_env.cli.main import main


def mistake(capsys, *words: str) -> str:
    """Run a command that must fail with exit code 2 and one line, and return the line."""
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert err.startswith("glam: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in out + err
    return err
