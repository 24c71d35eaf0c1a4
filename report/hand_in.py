"""Makes the zip of the four files that are handed in, after checking that they will stand on their own.

    python report/hand_in.py 311551001 --name "A. Student"

    Lab1_311551001.zip: Lab1_311551001.ipynb, network.py, layer.py, Lab1_report_311551001.pdf

The notebook goes in as it is. Before that the four files are unpacked into an empty folder beside the data, and the
notebook is run there, with --quick for one epoch only. The exit code is 2, with one sentence, where a check fails.
"""
import argparse
import csv
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

import nbformat
from jupyter_client.kernelspec import NoSuchKernel, get_kernel_spec
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

import typeset
from network import read_csv, replacing

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NOTEBOOK, SUBMISSION = 'Lab1_studentid.ipynb', 'DLAD-test-predict.csv'
ABSOLUTE = re.compile(r'(?:(?<![\w.~/])|(?<=file://))/(?:home|root|Users|tmp|mnt|content|private|var)/[\w.-]+'
                      r'|(?<!\w)[A-Z]:\\+\w+')
EPOCHS = re.compile(r'^EPOCH = .*$', re.MULTILINE)


class Refused(Exception):
    """A check failed; the message is the sentence that says so."""


def require(condition, sentence, *values):
    if not condition:
        raise Refused(sentence % values)


def read(path):
    require(os.path.isfile(path), '%s is missing', path)
    with open(path, 'rb') as file:
        return file.read()


def check_notebook(source):
    """The notebook's bytes: executed from top to bottom without errors, and with no path of somebody's machine."""
    try:
        notebook = nbformat.reads(source.decode('utf-8'), as_version=4)
        nbformat.validate(notebook)
    except (ValueError, nbformat.ValidationError, AttributeError, KeyError) as error:
        raise Refused('%s is not a notebook: %s' % (NOTEBOOK, str(error).split('\n')[0]))
    cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
    for number, cell in enumerate(cells, 1):
        require(cell.execution_count == number, '%s was not executed from top to bottom: code cell %d has the number '
                '%s', NOTEBOOK, number, cell.execution_count)
        for output in cell.outputs:
            require(output.output_type != 'error', '%s: code cell %d ended with %s', NOTEBOOK, number,
                    output.get('ename'))
    for number, cell in enumerate(notebook.cells, 1):
        texts = [cell.source]
        for output in cell.get('outputs', []):
            texts += [output.get('text', '')] + [str(value) for kind, value in output.get('data', {}).items()
                                                 if not kind.startswith('image/')]
        for found in filter(None, map(ABSOLUTE.search, texts)):
            raise Refused('%s: cell %d has the absolute path %s' % (NOTEBOOK, number, found.group()))


def check_submission(source, rows):
    """The submission's bytes against the number of test rows."""
    try:
        lines = list(csv.reader(io.StringIO(source.decode('ascii'), newline='')))
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refused('%s is not a CSV file: %s' % (SUBMISSION, error))
    require(lines[:1] == [['Id', 'Category']], '%s: the first line is not Id,Category', SUBMISSION)
    require(len(lines) == rows + 1, '%s has %d predictions, expected %d, the rows of test.csv', SUBMISSION,
            len(lines) - 1, rows)
    for index, line in enumerate(lines[1:]):
        require(len(line) == 2 and line[0] == str(index) and re.match(r'\d\d?\Z', line[1]) and int(line[1]) < 47,
                '%s: line %d is %s, expected %d and an integer 0..46', SUBMISSION, index + 2, ','.join(line), index)


def rehearse(content, name, data, rows, quick):
    """Unpack the zip into an empty folder beside the data, run its notebook there, and check what it writes."""
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(io.BytesIO(content)).extractall(folder)
        os.mkdir(os.path.join(folder, 'data'))
        for part in ('train.csv', 'test.csv'):
            try:
                os.symlink(os.path.join(os.path.abspath(data), part), os.path.join(folder, 'data', part))
            except OSError:      # Windows lets few users make links
                shutil.copy(os.path.join(data, part), os.path.join(folder, 'data', part))
        notebook = nbformat.read(os.path.join(folder, name), as_version=4)
        for cell in notebook.cells:
            if quick and cell.cell_type == 'code':
                cell.source = EPOCHS.sub('EPOCH = 1', cell.source)
        try:
            # Before a client is made: where it finds no kernel, it leaves its own handler of Ctrl-C behind
            get_kernel_spec(notebook.metadata.get('kernelspec', {}).get('name', 'python3'))
            NotebookClient(notebook, timeout=None, resources={'metadata': {'path': folder}}).execute(
                stderr=subprocess.DEVNULL)      # where the kernel talks of its own affairs
        except CellExecutionError as error:
            raise Refused('the four files by themselves do not run: %s: %s' % (error.ename, error.evalue))
        except (CellTimeoutError, DeadKernelError, NoSuchKernel) as error:
            raise Refused('the four files by themselves do not run: %s' % error)
        require(os.path.isfile(os.path.join(folder, SUBMISSION)), 'the notebook by itself wrote no %s', SUBMISSION)
        check_submission(read(os.path.join(folder, SUBMISSION)), rows)


def pack(files):
    """{name: bytes} -> the bytes of a zip, the same for the same files."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as archive:
        for name in sorted(files):
            about = zipfile.ZipInfo(name)      # dated 1980
            about.compress_type, about.create_system, about.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(about, files[name])
    return content.getvalue()


def hand_in(options):
    """Check everything, then write the zip -> its path. Where a check fails: Refused, and nothing is written."""
    student, data = options.student, options.data
    require(re.match(r'[0-9]+\Z', student), 'the student id is %r, expected digits only', student)
    require(os.path.isdir(options.output), '%s is not a folder: make it first', options.output)
    names = ['Lab1_%s.ipynb' % student, 'network.py', 'layer.py', 'Lab1_report_%s.pdf' % student]
    files = {name: read(os.path.join(options.project, source)) for name, source in zip(
        names, (NOTEBOOK, 'network.py', 'layer.py'))}
    check_notebook(files[names[0]])
    rows = len(read_csv(os.path.join(data, 'test.csv'), 784))
    require(os.path.isfile(os.path.join(data, 'train.csv')), '%s is missing', os.path.join(data, 'train.csv'))
    check_submission(read(os.path.join(options.project, SUBMISSION)), rows)
    with tempfile.TemporaryDirectory() as folder:
        typeset.build(options, student, os.path.join(folder, 'report.pdf'))
        files[names[3]] = read(os.path.join(folder, 'report.pdf'))
    content = pack(files)
    rehearse(content, names[0], data, rows, options.quick)
    path = os.path.join(options.output, 'Lab1_%s.zip' % student)
    with replacing(path) as file:
        file.write(content)
    return path


def main(arguments=None):
    """Make the zip to hand in; exit code 2 with one sentence where a check fails."""
    options = typeset.parser(main.__doc__)
    options.add_argument('student', metavar='STUDENTID')
    options.add_argument('--output', default='.', metavar='FOLDER', help='for the zip (default: here)')
    options.add_argument('--quick', action='store_true', help='try the notebook with one epoch only')
    options.add_argument('--project', default=PROJECT, metavar='FOLDER', help='of the notebook and the sources')
    try:
        path = hand_in(options.parse_args(arguments))
    except (Refused, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print('Wrote %s' % path)
    return 0


if __name__ == '__main__':
    sys.exit(main())
