"""The command that only reads files: validate."""

from __future__ import annotations

import typer

from runbook import errors
from runbook.cli.arguments import validate_file
from runbook.cli.options import AnnotateOption, CodeQualityOption, FilesArgument, Output, OutputOption, SetOption
from runbook.cli.output import print_error, print_message, print_problems, print_result, wrap
from runbook.cli.result_files import choose_files


def validate(
    files: FilesArgument,
    set_: SetOption = None,
    code_quality: CodeQualityOption = None,
    annotate: AnnotateOption = False,
    output: OutputOption = Output.AUTO,
) -> None:
    """Report every error in the files. Needs no systemd."""
    results = choose_files(output, code_quality=code_quality, annotate=annotate, has_page=False)
    results.check()
    count = 0
    for file in files:
        try:
            for note in validate_file(file, set_):
                print_message(wrap(f"note: {file}: {note}"))
        except errors.RunbookError as error:
            whole_file = [errors.Problem(file, 1, 1, error.message, error.hint)]
            problems = error.problems if isinstance(error, errors.DocumentError) else whole_file
            results.add(problems=problems)
            count += len(problems)
            print_error(error)
            if output is Output.JSON:
                print_problems(file, error)
    for line in results.list_commands() if count else ():
        print_result(line)
    for problem in results.write(is_due=True):
        print_message(wrap(f"runbook: {problem}"))
    if count:
        print_message(f"{count} error{'' if count == 1 else 's'}")
        raise typer.Exit(errors.EXIT_INVALID)
    if output is not Output.JSON:
        print_result(f"{len(files)} file{'' if len(files) == 1 else 's'}, no errors")
