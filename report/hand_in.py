"""Check the four files that are handed in, and pack them into a zip.

    python report/hand_in.py 311551001 --name "A. Student" --date 2022-10-06

    Lab1_311551001.zip: Lab1_311551001.ipynb, network.py, layer.py, Lab1_report_311551001.pdf

The notebook goes in as it is. Before that, the four files run by themselves in an empty folder
beside the data, and the submission that they write is compared with the one to upload.
"""
import argparse
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

PROJECT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / 'report'), str(PROJECT / 'data')]

import build                                        # noqa: E402
from csv_files import is_stand_in                   # noqa: E402
from network import read_csv, replacing             # noqa: E402

SUBMISSION = 'DLAD-test-predict.csv'
DATA = ('data/train.csv', 'data/test.csv')
LABELS = {str(label) for label in range(47)}
FOLDERS = 'home|root|Users|tmp|mnt|content|private|var|kaggle|opt|workspace|Volumes'
ABSOLUTE = re.compile(rf'((?<![\w.~/])|(?<=file://))/({FOLDERS})/[\w.-]+'
                      r'|(?<![\w%])[A-Zcd]:(\\+|/(?!/))\w+')
NETWORK = re.compile(r'predictions of the network "(.+?)"')      # the notebook prints this
PAUSE = 10      # seconds between two lines of progress
RUN_AGAIN = 'run the notebook again (Kernel, Restart & Run All) and save it'


def require(condition, sentence):
    """ValueError, with a sentence that says what to do, unless the condition holds."""
    if not condition:
        raise ValueError(sentence)


def read(path):
    """The bytes of a file. ValueError if it is missing."""
    require(path.is_file(), f'{path} is missing: fetch it again, or write it')
    return path.read_bytes()


def check_notebook(source, name):
    """The bytes of a notebook -> the notebook, whatever its minor version is.

    Refuse one that was not executed in order, that failed, or that has absolute paths.
    """
    try:
        notebook = nbformat.v4.reads(source.decode('utf-8-sig'))
        nbformat.validate(notebook, version=4, version_minor=4, relax_add_props=True)
    except (ValueError, AttributeError, TypeError, nbformat.ValidationError):
        raise ValueError(f'{name} is not a notebook: open it in Jupyter and save it')
    number = 0
    for cell in notebook.cells:
        found = ABSOLUTE.search(cell.source) or ABSOLUTE.search(printed(cell))
        require(not found, f'{name} has the absolute path {found and found.group()}, which other '
                f'machines lack: write a path such as data/train.csv, and {RUN_AGAIN}')
        if cell.cell_type == 'code' and cell.source.strip():
            number += 1
            got = cell.execution_count
            require(got == number, f'{name} was not executed from top to bottom: code cell '
                    f'{number} has the number {got}: {RUN_AGAIN}')
            failed = [output for output in cell.outputs if output.output_type == 'error']
            require(not failed, f'{name}: code cell {number} ended with an error: correct it, and '
                    f'{RUN_AGAIN}')
    return notebook


def printed(cell):
    """All that a cell printed or displays as text."""
    found = []
    for output in cell.get('outputs', []):
        texts = {kind: text for kind, text in output.get('data', {}).items()
                 if not kind.startswith('image/')}
        found += [output.get('text', ''), json.dumps(texts)]
    return '\n'.join(found)


def predicted_by(notebook):
    """Which network predicted, as the notebook says in its outputs."""
    names = NETWORK.findall('\n'.join(map(printed, notebook.cells)))
    if not names:
        return 'a network without a name'
    name = names[-1].encode('ascii', 'replace').decode('ascii')      # every terminal shows these
    return f'the network "{name}"'


def check_submission(source, rows, name=SUBMISSION):
    """The bytes of a submission -> its labels, as texts. Refuse it unless each line is right."""
    lines = source.decode('ascii', 'replace').split()
    require(lines[:1] == ['Id,Category'], f'{name}: the first line is not Id,Category: {RUN_AGAIN}')
    labels = []
    for row, line in enumerate(lines[1:]):
        number, _, label = line.partition(',')
        require(number == str(row) and label in LABELS, f'{name}: line {row + 2} is {line}, '
                f'expected {row} and a label 0..46: {RUN_AGAIN}')
        labels.append(label)
    require(len(labels) == rows, f'{name} has {len(labels)} predictions, expected {rows}, the rows '
            f'of test.csv: {RUN_AGAIN}')
    return labels


def check_data(project):
    """Refuse a folder without the competition's files -> the number of test rows."""
    for name in DATA:
        path = project / name
        require(path.is_file(), f"{path} is missing: copy the competition's file there")
        require(not is_stand_in(path), f"{path} is a stand-in: put the competition's train.csv and "
                'test.csv there, run the notebook again, and then hand in')
    return len(read_csv(path, 784))


class ProgressClient(NotebookClient):
    """Runs a notebook, and says every ten seconds how far it is."""

    started = said = None

    async def async_execute_cell(self, cell, cell_index, *arguments, **options):
        now = time.time()
        if self.started is None:
            self.started = self.said = now
        if now - self.said > PAUSE:
            self.said = now
            print(f'  cell {cell_index + 1} of {len(self.nb.cells)}, {now - self.started:.0f} s',
                  flush=True)
        return await super().async_execute_cell(cell, cell_index, *arguments, **options)


def rehearse(content, notebook, project):
    """Run the zip's notebook in an empty folder beside the data -> the submission it writes."""
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(io.BytesIO(content)).extractall(folder)
        pathlib.Path(folder, 'data').mkdir()
        for name in DATA:
            shutil.copy(str(project / name), f'{folder}/{name}')
        client = ProgressClient(notebook, timeout=None, kernel_name='python3',
                                resources={'metadata': {'path': folder}})
        kernel = client.create_kernel_manager().kernel_spec      # the user may have made another
        kernel.argv = [sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}']
        try:
            client.execute(stderr=subprocess.DEVNULL)      # where the kernel logs
        except CellExecutionError as error:
            raise ValueError(f'the four files by themselves do not run ({error.ename}: '
                             f'{error.evalue}): they may use data/train.csv, data/test.csv and the '
                             'packages of requirements.txt only')
        written = pathlib.Path(folder, SUBMISSION)
        require(written.is_file(), f'the four files by themselves wrote no {SUBMISSION}: '
                'the notebook must write it beside itself')
        return written.read_bytes()


def compare(uploaded, rehearsed, name):
    """Say in one sentence whether the four files alone write the submission that is uploaded.

    `name` is the network that predicts there.
    """
    different = sum(one != other for one, other in zip(uploaded, rehearsed))
    if not different:
        return f'The four files alone write the same {SUBMISSION}.'
    return (f'Note: the four files alone predict {different} of {len(uploaded)} rows otherwise '
            f'than {SUBMISSION}, by {name}. A few rows are the rounding of another processor. Else '
            'upload what they write, or say in the report where the uploaded file comes from.')


def pack(files):
    """{name: bytes} -> the bytes of a zip, the same for the same files."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as archive:
        for name in sorted(files):
            about = zipfile.ZipInfo(name)      # dated 1980
            about.external_attr = 0o644 << 16
            archive.writestr(about, files[name], zipfile.ZIP_DEFLATED)
    return content.getvalue()


def report(options):
    """The bytes of the report: the student's own PDF, or report.typ typeset with name and id."""
    if not options.report:
        require(build.typst, f'{build.MISSING}; or name a PDF of your own with --report')
        return build.build(options.name, options.student, options.date)
    content = read(pathlib.Path(options.report))
    require(content.startswith(b'%PDF'), f'{options.report} is no PDF file: export it as one')
    return content


def hand_in(options, project):
    """Check everything, then write the zip -> its path. If a check fails, nothing is written."""
    student = options.student
    require(re.match(r'[A-Za-z0-9_-]+\Z', student) and student != 'studentid', 'the student id is '
            f'{student!a}, expected your own: letters, digits, - and _ only')
    name = f'Lab1_{student}.ipynb'
    own = project / name
    if not own.exists():
        own = project / 'Lab1_studentid.ipynb'
    print(f'1 of 3: checking {own.name}, {SUBMISSION} and the data', flush=True)
    files = {name: read(own)}
    notebook = check_notebook(files[name], own.name)
    for source in ('network.py', 'layer.py'):
        files[source] = read(project / source)
    rows = check_data(project)
    uploaded = check_submission(read(project / SUBMISSION), rows)
    print(f'  The notebook says that the submission was predicted by {predicted_by(notebook)}.')
    print('2 of 3: the report', flush=True)
    files[f'Lab1_report_{student}.pdf'] = report(options)
    print('3 of 3: running the four files by themselves, which takes some minutes', flush=True)
    content = pack(files)
    written = rehearse(content, notebook, project)
    rehearsed = check_submission(written, rows, f'the {SUBMISSION} of the four files alone')
    print(compare(uploaded, rehearsed, predicted_by(notebook)))
    path = f'Lab1_{student}.zip'
    with replacing(path) as file:
        file.write(content)
    return path


def main(arguments=None, project=PROJECT):
    """Make the zip to hand in, in this folder. If a check fails, one sentence says why."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('student', metavar='STUDENTID')
    build.add_options(parser)
    parser.add_argument('--report', metavar='PDF', help='your own report, in place of report.typ')
    try:
        path = hand_in(parser.parse_args(arguments), project)
    except (ValueError, OSError, DeadKernelError) as error:
        sys.exit(f'hand_in.py: {error}')
    print(f'Wrote {path}. Upload {SUBMISSION} to Kaggle with your id as the name of the team.')


if __name__ == '__main__':
    main()
