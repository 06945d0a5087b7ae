"""Check a submission before it is sent."""

from __future__ import annotations

from collections.abc import Mapping

from spinevl.evaluation.answer_files import read_submission
from spinevl.io.json_file import read_json_list
from spinevl.schema.errors import Problems, refused
from spinevl.schema.patient import composed
from spinevl.schema.task import Task
from spinevl.sources.labels import read_template


def check_submission(path: str, *, template: str, tasks: Mapping[str, Task]) -> str:
    """Hold ``answers.json`` against the template: ids, order, integers and lengths.

    Returns:
        A line that says what is fine.

    Raises:
        UserError: with every problem.
    """
    graded = {name: task for name, task in tasks.items() if task.closed and task.weight > 0}
    patients = read_template(template, tasks=graded)
    ids = [patient.written for patient in patients]
    read_submission(path, ids=[one.id for one in patients], tasks=graded, missing="error")
    given = read_json_list(path, expected="a list of answers")
    found = [entry["id"] for entry in given]
    if found != ids:
        place = next(k for k, (a, b) in enumerate(zip(found, ids, strict=True)) if a != b)
        wanted, given_id, fix = ids[place], found[place], "put the patients in the template's order"
        if composed(wanted) == composed(given_id):  # they look the same
            wanted, given_id, fix = ascii(wanted), ascii(given_id), "spell the id as there"
        where = f"{path}: record {place + 1}"
        raise refused(where, f"patient {wanted}, as in {template}", f"patient {given_id}", fix)
    problems = Problems()
    for entry in given:
        if keys := sorted(set(entry) - {"id", *graded}):
            wanted = f"only the keys id, {', '.join(graded)}"
            where = f"{path}: patient {entry['id']}"
            problems.add(where, wanted, f"also {', '.join(keys)}", "remove them")
    problems.raise_any()
    return f"ok  {path}: {len(ids)} patients, ids, order and values as in the template"
