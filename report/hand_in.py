"""Check the four files that are handed in, and pack them into a zip.

    python report/hand_in.py 311551001 --name "A. Student" --date 2022-10-06

    Lab1_311551001.zip: Lab1_311551001.ipynb, network.py, layer.py, Lab1_report_311551001.pdf

The notebook goes in as it is. Before that, the four files run by themselves in an empty folder
beside the data, and the submission that they write is compared with the one to upload.
"""
import argparse
import contextlib
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

HOME = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(HOME)
sys.path[:0] = [PROJECT, HOME, os.path.join(PROJECT, 'data')]

import build                                        # noqa: E402
from csv_files import is_stand_in                   # noqa: E402
from network import read_csv, replacing             # noqa: E402

SUBMISSION = 'DLAD-test-predict.csv'
FOLDERS = 'home|root|Users|tmp|mnt|content|private|var|kaggle|opt|workspace|Volumes'
ABSOLUTE = re.compile(rf'((?<![\w.~/])|(?<=file://))/({FOLDERS})/[\w.-]+'
                      r'|(?<![\w%])[A-Zcd]:(\\+|/(?!/))\w+')
EPOCHS = re.compile(r'^(\w*EPOCH\w*) = .*$', re.MULTILINE)
NETWORK = re.compile(r'predictions of the network "(.+)"')      # the notebook prints this
RUN_AGAIN = 'run the notebook again (Kernel, Restart & Run All) and save it'


class Refused(Exception):
    """A check failed. The message is one sentence that says what to do."""


def require(condition, sentence):
    if not condition:
        raise Refused(sentence)


def say(line):
    """Print a line at once. What the terminal cannot show becomes a question mark."""
    encoding = getattr(sys.stdout, 'encoding', None) or 'ascii'
    print(line.encode(encoding, 'replace').decode(encoding), flush=True)


def read(path):
    require(os.path.isfile(path), f'{path} is missing: fetch it again, or write it')
    with open(path, 'rb') as file:
        return file.read()


# The checks ---------------------------------------------------------------------------------------

def read_notebook(source, name):
    """The bytes of a notebook -> the notebook, whatever its minor version is."""
    try:
        notebook = nbformat.v4.reads(source.decode('utf-8-sig'))
        if all('id' in cell for cell in notebook.cells):      # cells have ids from 4.5 on
            notebook.nbformat_minor = max(notebook.nbformat_minor, 5)
        else:
            notebook.nbformat_minor = 4
            for cell in notebook.cells:
                cell.pop('id', None)
        nbformat.validate(notebook)
    except (ValueError, nbformat.ValidationError, AttributeError, KeyError) as error:
        first_line = str(error).split('\n')[0]
        raise Refused(f'{name} is not a notebook ({first_line}): open it in Jupyter and save it')
    return notebook


def check_notebook(notebook, name):
    """Refuse a notebook that was not executed in order, that failed, or that has absolute paths."""
    cells = [cell for cell in notebook.cells if cell.cell_type == 'code' and cell.source.strip()]
    for number, cell in enumerate(cells, 1):
        got = cell.execution_count
        require(got == number, f'{name} was not executed from top to bottom: code cell {number} '
                f'has the number {got}: {RUN_AGAIN}')
        for output in cell.outputs:
            require(output.output_type != 'error', f'{name}: code cell {number} ended with '
                    f'{output.get("ename")}: correct it, and {RUN_AGAIN}')
    for number, cell in enumerate(notebook.cells, 1):
        for text in [cell.source] + outputs(cell):
            found = ABSOLUTE.search(text)
            require(not found, f'{name}: cell {number} has the absolute path '
                    f'{found and found.group()}, which other machines lack: write a path that '
                    f'starts beside the notebook, such as data/train.csv, and {RUN_AGAIN}')


def outputs(cell):
    """All that a cell printed or displays as text."""
    found = []
    for output in cell.get('outputs', []):
        found.append(output.get('text', ''))
        data = output.get('data', {})
        found += [str(data[kind]) for kind in data if not kind.startswith('image/')]
    return found


def predicted_by(notebook):
    """Which network predicted, as the notebook says in its outputs."""
    lines = []
    for cell in notebook.cells:
        lines += NETWORK.findall('\n'.join(outputs(cell)))
    return f'the network "{lines[-1]}"' if lines else 'a network without a name'


def check_submission(source, rows, name=SUBMISSION):
    """The bytes of a submission -> its predictions. Refuse it unless it has `rows` good lines."""
    remedy = 'run the notebook again, which writes the file anew'
    require(not source.startswith(b'\xef\xbb\xbf'), f'{name} starts with a byte order mark, which '
            f'Excel writes and Kaggle may refuse: {remedy}')
    try:
        lines = list(csv.reader(io.StringIO(source.decode('ascii'), newline='')))
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refused(f'{name} is not a CSV file ({error}): {remedy}')
    while lines and not any(lines[-1]):
        lines.pop()      # a blank line at the end is harmless
    require(lines[:1] == [['Id', 'Category']], f'{name}: the first line is not Id,Category: '
            f'{remedy}')
    require(len(lines) == rows + 1, f'{name} has {len(lines) - 1} predictions, expected {rows}, '
            f'the rows of test.csv: {remedy}')
    for index, line in enumerate(lines[1:]):
        good = len(line) == 2 and line[0] == str(index) and re.match(r'\d\d?\Z', line[1])
        require(good and int(line[1]) < 47, f'{name}: line {index + 2} is {",".join(line)}, '
                f'expected {index} and an integer 0..46: {remedy}')
    return [line[1] for line in lines[1:]]


def check_data(folder):
    """Refuse a folder without the competition's files -> the number of test rows."""
    for path in (os.path.join(folder, name) for name in ('train.csv', 'test.csv')):
        require(os.path.isfile(path), f"{path} is missing: copy the competition's file there")
        require(not is_stand_in(path), f"{path} is a stand-in: put the competition's train.csv and "
                'test.csv there, run the notebook again, and then hand in')
    return len(read_csv(path, 784))


# The rehearsal ------------------------------------------------------------------------------------

class ProgressClient(NotebookClient):
    """Runs a notebook, and says every ten seconds how far it is."""

    started = said = None

    async def async_execute_cell(self, cell, cell_index, *arguments, **options):
        now = time.time()
        if self.started is None:
            self.started = self.said = now
        if now - self.said > 10:
            self.said = now
            say(f'  cell {cell_index + 1} of {len(self.nb.cells)}, {now - self.started:.0f} s')
        return await super().async_execute_cell(cell, cell_index, *arguments, **options)


@contextlib.contextmanager
def this_python(folder):
    """Yield the name of a kernel that runs this Python, whatever kernels the user has."""
    kernel = os.path.join(folder, 'kernels', 'hand-in')
    os.makedirs(kernel)
    command = [sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}']
    with open(os.path.join(kernel, 'kernel.json'), 'w') as file:
        json.dump({'argv': command, 'display_name': 'hand-in', 'language': 'python'}, file)
    before = os.environ.get('JUPYTER_PATH', '')
    os.environ['JUPYTER_PATH'] = folder
    try:
        yield 'hand-in'
    finally:
        os.environ['JUPYTER_PATH'] = before


def rehearse(content, name, data, quick):
    """Run the zip's notebook in an empty folder -> (the submission, the executed notebook)."""
    with tempfile.TemporaryDirectory() as kernels, tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(io.BytesIO(content)).extractall(folder)
        os.mkdir(os.path.join(folder, 'data'))
        for part in ('data/train.csv', 'data/test.csv'):
            source = os.path.abspath(os.path.join(data, os.path.basename(part)))
            try:
                os.symlink(source, os.path.join(folder, part))
            except OSError:      # Windows lets few users make links
                shutil.copy(source, os.path.join(folder, part))
        notebook = read_notebook(read(os.path.join(folder, name)), name)
        for cell in notebook.cells:
            if quick and cell.cell_type == 'code':
                cell.source = EPOCHS.sub(r'\1 = 1', cell.source)
        try:
            with this_python(kernels) as kernel:
                client = ProgressClient(notebook, timeout=None, kernel_name=kernel,
                                        resources={'metadata': {'path': folder}})
                client.execute(stderr=subprocess.DEVNULL)      # where the kernel logs
        except CellExecutionError as error:
            raise Refused(f'the four files by themselves do not run ({error.ename}: '
                          f'{error.evalue}): they may use data/train.csv, data/test.csv and the '
                          'packages of requirements.txt only')
        except (CellTimeoutError, DeadKernelError) as error:
            raise Refused(f'the four files by themselves do not run ({error}): close other '
                          'programs, as memory may be short, and try again')
        written = os.path.join(folder, SUBMISSION)
        require(os.path.isfile(written), f'the four files by themselves wrote no {SUBMISSION}: '
                'the notebook must write it beside itself')
        return read(written), notebook


def compare(uploaded, rehearsed, name):
    """Say in one sentence whether the four files alone write the submission that is uploaded."""
    different = sum(one != other for one, other in zip(uploaded, rehearsed))
    if not different:
        return f'The four files alone write the same {SUBMISSION}.'
    rows = f'{different} of {len(uploaded)} rows'
    if different < len(uploaded) / 500:
        return (f'The four files alone write the same {SUBMISSION} but for {rows}: another '
                'processor rounds differently.')
    return (f'Note: the four files alone predict {rows} otherwise than {SUBMISSION}, by {name}: '
            'upload what they write, or say in the report where the uploaded file comes from.')


# All together -------------------------------------------------------------------------------------

def pack(files):
    """{name: bytes} -> the bytes of a zip, the same for the same files."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as archive:
        for name in sorted(files):
            about = zipfile.ZipInfo(name)      # dated 1980
            about.compress_type = zipfile.ZIP_DEFLATED
            about.create_system = 3
            about.external_attr = 0o644 << 16
            archive.writestr(about, files[name])
    return content.getvalue()


def report(options):
    """The bytes of the report: the student's own PDF, or report.typ typeset with name and id."""
    if options.report:
        content = read(options.report)
        require(content.startswith(b'%PDF'), f'{options.report} is no PDF file: export it as one')
        return content
    require(build.typst, f'{build.MISSING}; or name a PDF of your own with --report')
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'report.pdf')
        build.build(path, options.name, options.student, options.date, fonts=options.fonts)
        return read(path)


def hand_in(options):
    """Check everything, then write the zip -> its path. If a check fails, nothing is written."""
    student, project = options.student, options.project
    require(re.match(r'[A-Za-z0-9_-]+\Z', student) and student != 'studentid', 'the student id is '
            f'{student!a}, expected your own: letters, digits, - and _ only')
    require(os.path.isdir(options.output), f'{options.output} is not a folder: make it first')
    names = [f'Lab1_{student}.ipynb', 'network.py', 'layer.py']
    own = os.path.exists(os.path.join(project, names[0]))
    notebook_name = names[0] if own else 'Lab1_studentid.ipynb'
    say(f'1 of 4: checking {notebook_name}, {SUBMISSION} and the data')
    files = {name: read(os.path.join(project, name)) for name in names[1:]}
    files[names[0]] = read(os.path.join(project, notebook_name))
    notebook = read_notebook(files[names[0]], notebook_name)
    check_notebook(notebook, notebook_name)
    rows = check_data(options.data)
    uploaded = check_submission(read(os.path.join(project, SUBMISSION)), rows)
    say(f'  The notebook says that the submission was predicted by {predicted_by(notebook)}.')
    say('2 of 4: the report')
    files[f'Lab1_report_{student}.pdf'] = report(options)
    say('3 of 4: running the four files by themselves, which takes some minutes')
    content = pack(files)
    written, executed = rehearse(content, names[0], options.data, options.quick)
    rehearsed = check_submission(written, rows, f'the {SUBMISSION} of the four files alone')
    if options.quick:
        say('  They run. With --quick, what they predict is not compared with your submission.')
    else:
        say('  ' + compare(uploaded, rehearsed, predicted_by(executed)))
    say('4 of 4: packing')
    path = os.path.join(options.output, f'Lab1_{student}.zip')
    with replacing(path) as file:
        file.write(content)
    return path


def main(arguments=None):
    """Make the zip to hand in. Exit code 2, in one sentence, if a check fails."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('student', metavar='STUDENTID')
    build.add_options(parser)
    parser.add_argument('--report', metavar='PDF', help='your own report, in place of report.typ')
    parser.add_argument('--output', default='.', metavar='FOLDER', help='for the zip, default: .')
    parser.add_argument('--quick', action='store_true', help='train one epoch only in the trial')
    parser.add_argument('--project', default=PROJECT, metavar='FOLDER', help='of the four files')
    parser.add_argument('--data', default=os.path.join(PROJECT, 'data'), metavar='FOLDER')
    try:
        path = hand_in(parser.parse_args(arguments))
    except (Refused, ValueError, OSError) as error:
        print(f'hand_in.py: {error}', file=sys.stderr)
        return 2
    say(f'Wrote {path}. Upload {SUBMISSION} to Kaggle with your id as the name of the team.')
    return 0


if __name__ == '__main__':
    sys.exit(main())
