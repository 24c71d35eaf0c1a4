"""Check the four files that are handed in, run them by themselves, and pack them into a zip.

    python report/hand_in.py 311551001 --name "A. Student" --date 2022-10-06

    Lab1_311551001.zip: Lab1_311551001.ipynb, network.py, layer.py, Lab1_report_311551001.pdf
    Lab1_311551001_predict.csv: the submission that this notebook writes, to be uploaded

The four files run in an empty folder beside the data. The notebook is packed as it was run there,
so its outputs belong to its code.
"""
import argparse
import ast
import atexit
import concurrent.futures
import contextlib
import errno
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import zipfile

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

PROJECT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(PROJECT), str(PROJECT / 'report'), str(PROJECT / 'data'),
                str(PROJECT / 'leaderboard')]

import build                                        # noqa: E402
from checkpoint import replacing                    # noqa: E402
from csv_files import is_stand_in                   # noqa: E402

GRADER = PROJECT / 'tests' / 'grade.py'
SUBMISSION = 'DLAD-test-predict.csv'
SOURCES = ('layer.py', 'network.py')
DATA = ('data/train.csv', 'data/test.csv')
# Texts that begin like /home/me, ~/lab, \\server\share or C:\lab
ABSOLUTE = re.compile(r'(file:/*)?(//?[\w.-]+/|~[\w.-]*/|\\\\[\w.-]+\\|[A-Za-z]:[/\\])[\w.-]')
NETWORK = re.compile(r'predictions of the network "(.+?)"')      # the notebook prints this
PAUSE = 10      # seconds between two lines of progress
MEMORY = 'close other programs, or take a machine with more memory'


def require(condition, sentence):
    """ValueError, with a sentence that says what to do, unless the condition holds."""
    if not condition:
        raise ValueError(sentence)


def read(path):
    """The bytes of a file. ValueError if it is missing."""
    require(path.is_file(), f'{path} is missing: fetch it again, or write it')
    return path.read_bytes()


# What is checked ----------------------------------------------------------------------------------

def read_notebook(path):
    """A notebook of any minor version -> the notebook in version 4.4."""
    try:
        notebook = nbformat.v4.reads(read(path).decode('utf-8-sig'))
        nbformat.validate(notebook, version=4, version_minor=4, relax_add_props=True)
    except (UnicodeError, json.JSONDecodeError, AttributeError, TypeError,
            nbformat.ValidationError):
        raise ValueError(f'{path.name} is not a notebook: open it in Jupyter and save it')
    notebook.nbformat_minor = 4
    for cell in notebook.cells:
        cell.pop('id', None)
    return notebook


def check_paths(source, name):
    """Refuse Python code with a text that is an absolute path. Lines of IPython's are left out."""
    lines = ['' if line.lstrip().startswith(('%', '!')) else line for line in source.split('\n')]
    try:
        tree = ast.parse('\n'.join(lines))
    except SyntaxError:
        return      # the rehearsal says it
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else getattr(node, 's', None)
        found = isinstance(text, str) and ABSOLUTE.match(text)
        require(not found, f'{name} has the absolute path {text!a}, which other machines lack: '
                'write a path such as data/train.csv')


def check_data(project):
    """Refuse a folder without the competition's files -> the number of test rows."""
    for name in DATA:
        path = project / name
        require(path.is_file(), f"{path} is missing: copy the competition's file there")
        require(not is_stand_in(path), f"{path} is a stand-in: put the competition's train.csv and "
                'test.csv there')
    with open(str(path), 'rb') as file:
        return sum(1 for line in file if line.strip())


def check_submission(source, rows):
    """Refuse the bytes of a submission unless each line is right."""
    lines = source.decode('ascii', 'replace').splitlines()
    require(lines[:1] == ['Id,Category'], f'{SUBMISSION}: the first line is not Id,Category')
    for row, line in enumerate(lines[1:]):
        require(re.match(rf'{row},([0-9]|[1-3][0-9]|4[0-6])\Z', line), f'{SUBMISSION}: line '
                f'{row + 2} is {line!a}, expected {row} and a label 0..46')
    require(len(lines) == rows + 1, f'{SUBMISSION} has {len(lines) - 1} predictions, expected '
            f'{rows}, the rows of test.csv')


def judge(project, notebook):
    """Print which files are the repository's own, and what the grader says of the two sources."""
    paths = {name: project / name for name in SOURCES}
    paths['Lab1_studentid.ipynb'] = notebook
    for name, path in paths.items():
        if build.is_repositorys(path, name):
            print(f"  Note: {name} is the repository's own. To hand it in as yours is copying.",
                  flush=True)
    code = subprocess.call([sys.executable, str(GRADER), str(project)])
    if code:
        print('  Note: the grader does not call the two files right. They are packed as they are.')


# The rehearsal ------------------------------------------------------------------------------------

def rehearse(notebook, files, project):
    """Run a notebook beside {name: bytes} and the data in an empty folder, which fills its outputs.

    Returns the bytes of the submission that it writes.
    """
    with tempfile.TemporaryDirectory() as folder:
        home = pathlib.Path(folder)
        (home / 'data').mkdir()
        for name in files:
            (home / name).write_bytes(files[name])
        for name in DATA:
            shutil.copy(str(project / name), str(home / name))
        execute(notebook, folder)
        written = home / SUBMISSION
        require(written.is_file(), f'the four files by themselves wrote no {SUBMISSION}: '
                'the notebook must write it beside itself')
        return written.read_bytes()


def execute(notebook, folder):
    """Run a notebook in a folder with this Python. ValueError, in a sentence, if it fails."""
    client = NotebookClient(notebook, timeout=None, kernel_name='python3', record_timing=False,
                            resources={'metadata': {'path': folder}})
    try:
        watch(client)
    except CellExecutionError as error:
        said = textwrap.shorten(f'{error.ename}: {error.evalue}', 300)
        raise ValueError(f'the four files by themselves do not run ({said}): they may use '
                         'data/train.csv, data/test.csv and the packages of requirements.txt only')
    except DeadKernelError:
        raise ValueError(f'Python ended in code cell {client.code_cells_executed}, as it does '
                         f'without memory: {MEMORY}')
    except RuntimeError as error:
        raise ValueError(f'the notebook was not started ({error}): free space in '
                         f'{tempfile.gettempdir()}, or install requirements.txt again')


def watch(client):
    """Run a client's notebook, and say every ten seconds how far it is. A signal ends its kernel.

    The client works in a thread: there nbclient leaves signals alone.
    """
    manager = client.create_kernel_manager()
    kernel = manager.kernel_spec      # the user may have made another
    kernel.argv = [sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}']
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        run = pool.submit(client.execute, stderr=subprocess.DEVNULL)      # where the kernel logs
        started = time.time()
        try:
            while concurrent.futures.wait([run], PAUSE).not_done:
                print(f'  code cell {client.code_cells_executed}, {time.time() - started:.0f} s',
                      flush=True)
        finally:
            while not run.done():
                with contextlib.suppress(ProcessLookupError):      # it has ended already
                    if manager.has_kernel:
                        os.kill(manager.provisioner.pid, signal.SIGTERM)
                time.sleep(0.2)
            atexit.unregister(client._cleanup_kernel)      # nbclient forgets it if none starts
    run.result()


def predicted_by(notebook):
    """Which network predicted, as the notebook says in its outputs."""
    texts = []
    for cell in notebook.cells:
        texts += [output.get('text', '') for output in cell.get('outputs', [])]
    names = NETWORK.findall('\n'.join(texts))
    if not names:
        return 'a network without a name'
    name = names[-1].encode('ascii', 'replace').decode('ascii')      # every terminal shows these
    return f'the network "{name}"'


# All together -------------------------------------------------------------------------------------

def report(options):
    """The bytes of the report: the student's own PDF, or report.typ typeset with name and id."""
    if not options.report:
        require(build.typst, f'{build.MISSING}; or name a PDF of your own with --report')
        return build.build(options.name, options.student, options.date)
    content = read(pathlib.Path(options.report))
    require(content.startswith(b'%PDF'), f'{options.report} is no PDF file: export it as one')
    return content


def hand_in(options, project):
    """Check everything, then write the zip and the submission. Else nothing is written."""
    student = options.student
    require(re.match(r'[A-Za-z0-9_-]+\Z', student) and student != 'studentid', 'the student id is '
            f'{student!a}, expected your own: letters, digits, - and _ only')
    name = f'Lab1_{student}.ipynb'
    own = project / name
    if not own.exists():
        own = project / 'Lab1_studentid.ipynb'
    print(f'1 of 4: checking {own.name}, layer.py, network.py and the data', flush=True)
    notebook = read_notebook(own)
    files = {source: read(project / source) for source in SOURCES}
    for source in SOURCES:
        check_paths(files[source].decode('utf-8', 'replace'), source)
    for cell in notebook.cells:
        if cell.cell_type == 'code':
            check_paths(cell.source, own.name)
    rows = check_data(project)
    print('2 of 4: what tests/grade.py says of layer.py and network.py', flush=True)
    judge(project, own)
    print('3 of 4: the report', flush=True)
    files[f'Lab1_report_{student}.pdf'] = report(options)
    print('4 of 4: running the four files by themselves, which takes some minutes', flush=True)
    written = rehearse(notebook, files, project)
    check_submission(written, rows)
    files[name] = nbformat.v4.writes(notebook).encode('utf-8')
    write(files, written, student)
    conclude(project / SUBMISSION, written, student, predicted_by(notebook))


def write(files, submission, student):
    """Write {name: bytes} as a zip, with the present time, and the submission beside it."""
    with replacing(f'Lab1_{student}.zip') as file:
        with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
            for name in sorted(files):
                archive.writestr(name, files[name])
    with replacing(f'Lab1_{student}_predict.csv') as file:
        file.write(submission)


def conclude(path, written, student, network):
    """Say what was written, what to upload, and how it differs from the submission at `path`."""
    before = path.read_bytes().split() if path.is_file() else written.split()
    different = sum(one != other for one, other in itertools.zip_longest(before, written.split()))
    if different:
        print(f'Note: {path} differs in {different} lines. A few are the rounding of another '
              'processor. Else upload what the four files write, or say in the report where the '
              'uploaded file comes from.')
    print(f'Wrote Lab1_{student}.zip. Upload Lab1_{student}_predict.csv to Kaggle, with your id as '
          f'the name of the team: the notebook in the zip wrote it, by {network}.')


def stop(number, frame):
    """End the program when a signal comes; what it has started is ended on the way out."""
    sys.exit(f'hand_in.py: stopped by {signal.Signals(number).name}: nothing was written')


def main(arguments=None, project=PROJECT):
    """Make the zip to hand in, in this folder. If a check fails, one sentence says why."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('student', metavar='STUDENTID')
    build.add_options(parser)
    parser.add_argument('--report', metavar='PDF', help='your own report, in place of report.typ')
    options = parser.parse_args(arguments)
    for name in ('SIGINT', 'SIGTERM', 'SIGHUP'):
        number = getattr(signal, name, None)      # Windows has no SIGHUP
        if number and signal.getsignal(number) is not signal.SIG_IGN:      # as nohup sets it
            signal.signal(number, stop)
    try:
        hand_in(options, project)
    except MemoryError:
        sys.exit(f'hand_in.py: there is too little memory: {MEMORY}')
    except (ValueError, OSError) as error:
        full = getattr(error, 'errno', None) == errno.ENOSPC
        where = ': free space here, or name another TMPDIR for temporary files' if full else ''
        sys.exit(f'hand_in.py: {error}{where}')


if __name__ == '__main__':
    main()
