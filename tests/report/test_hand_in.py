"""report/hand_in.py: what it packs, what it says, what it refuses, and that it leaves nothing.

The project is a tiny one. Its notebook is run by nbclient, as the real one.
"""
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, 'report'))

nbformat = pytest.importorskip('nbformat')
pytest.importorskip('nbclient')

import hand_in                            # noqa: E402
from network import write_submission      # noqa: E402

NOTEBOOK = os.path.join(ROOT, 'Lab1_studentid.ipynb')
SOURCE = """import numpy as np
import network as model

EPOCH = 9
test_data = model.read_csv('data/test.csv', 784)
model.write_submission('DLAD-test-predict.csv', np.arange(len(test_data)))
print(f'{len(test_data)} predictions of the network "of {EPOCH} epochs".')"""
ROWS = 10
GRADER = "import sys; print('graded', sys.argv[1]); sys.exit('WRONG' in open('layer.py').read())"


def notebook(*sources, minor=4, ids=False, kernel=None, **changes):
    """The bytes of a notebook with these cells; `changes` are of the first."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].update(changes)
    title = nbformat.v4.new_markdown_cell('A title: $f:\\mathbb{R}$, /and/or')
    result = nbformat.v4.new_notebook(cells=[title] + cells)
    result.nbformat_minor = minor
    for number, cell in enumerate(result.cells):
        cell.pop('id', None)
        if ids:
            cell['id'] = f'cell-{number}'
    if kernel:
        result.metadata.kernelspec = {'name': kernel, 'display_name': kernel}
    return nbformat.v4.writes(result).encode('utf-8')


@pytest.fixture(autouse=True)
def signals():
    """Put back what happens when a signal comes."""
    numbers = [getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP')
               if hasattr(signal, name)]
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before):
        signal.signal(number, handler)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder as a student's: the notebook, the two sources, the submission, and data/.

    The command runs in another folder, `out`, with a grader of its own.
    """
    (tmp_path / 'out').mkdir()
    monkeypatch.chdir(str(tmp_path / 'out'))
    (tmp_path / 'grade.py').write_text(f'import os, sys; os.chdir(sys.argv[1]); {GRADER}')
    monkeypatch.setattr(hand_in, 'GRADER', tmp_path / 'grade.py')
    monkeypatch.setattr(hand_in, 'PAUSE', 0.5)
    monkeypatch.setattr(hand_in.build, 'is_repositorys',
                        lambda path, name: b'WRONG' not in path.read_bytes())
    folder = tmp_path / 'project'
    (folder / 'data').mkdir(parents=True)
    for name in ('layer.py', 'network.py'):
        shutil.copy(os.path.join(ROOT, name), str(folder))
    stale = [nbformat.v4.new_output('stream', text='100 predictions of the network "leaderboard".')]
    (folder / 'Lab1_studentid.ipynb').write_bytes(
        notebook(SOURCE, outputs=stale, execution_count=7))
    write_submission(str(folder / 'DLAD-test-predict.csv'), np.arange(ROWS))
    (folder / 'data' / 'test.csv').write_text(('0,' * 783 + '0\n') * ROWS)
    (folder / 'data' / 'train.csv').write_text(('0,' * 784 + '0\n') * ROWS)
    (folder / 'own.pdf').write_bytes(b'%PDF of the student')
    return folder


def run(project, student='311551001'):
    hand_in.main([student, '--report', str(project / 'own.pdf')], project)


def packed(project, student='311551001'):
    """{name: bytes} of the zip, and the bytes of the submission beside it."""
    out = project.parent / 'out'
    content = (out / f'Lab1_{student}.zip').read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        for about in archive.infolist():
            age = time.time() - time.mktime(about.date_time + (0, 0, -1))
            assert abs(age) < 3600, f'{about.filename} is dated {about.date_time}'
        files = {name: archive.read(name) for name in archive.namelist()}
    return files, (out / f'Lab1_{student}_predict.csv').read_bytes()


def refusal(command, *arguments, **options):
    """The one sentence with which a command ends."""
    with pytest.raises(SystemExit) as stop:
        command(*arguments, **options)
    complaint = stop.value.code
    assert complaint.startswith('hand_in.py: ') and '\n' not in complaint, complaint
    return complaint


# What is packed -----------------------------------------------------------------------------------

def test_code_outputs_and_submission_belong_together(project, capfd):
    run(project)
    files, submission = packed(project)
    assert sorted(files) == ['Lab1_311551001.ipynb', 'Lab1_report_311551001.pdf', 'layer.py',
                             'network.py']
    for name, source in (('layer.py', 'layer.py'), ('network.py', 'network.py'),
                         ('Lab1_report_311551001.pdf', 'own.pdf')):
        assert files[name] == (project / source).read_bytes(), f'{name} was changed'
    cells = nbformat.reads(files['Lab1_311551001.ipynb'].decode('utf-8'), 4).cells
    assert cells[1].source == SOURCE and cells[1].execution_count == 1
    printed = ''.join(output.text for output in cells[1].outputs)
    assert printed == '10 predictions of the network "of 9 epochs".\n', printed
    assert submission == (project / 'DLAD-test-predict.csv').read_bytes()
    output = capfd.readouterr()
    assert output.err == '' and 'differs in' not in output.out
    for expected in ('1 of 4: checking Lab1_studentid.ipynb', f'graded {project}', '3 of 4',
                     "layer.py is the repository's own.", "network.py is the repository's own.",
                     "Lab1_studentid.ipynb is the repository's own.",
                     'Upload Lab1_311551001_predict.csv to Kaggle', 'by the network "of 9 epochs"'):
        assert expected in output.out, f'no {expected!r} in\n{output.out}'


def test_ones_own_files_are_taken_and_graded(project, capfd):
    (project / 'Lab1_b08901234.ipynb').write_bytes(notebook(SOURCE + '\n# my own'))
    (project / 'layer.py').write_text((project / 'layer.py').read_text() + '# WRONG\n')
    labels = np.arange(ROWS)
    labels[3:5] = 40
    write_submission(str(project / 'DLAD-test-predict.csv'), labels)
    run(project, student='b08901234')
    files, submission = packed(project, 'b08901234')
    assert '# my own' in files['Lab1_b08901234.ipynb'].decode('utf-8')
    assert b'\n3,3\n' in submission
    printed = capfd.readouterr().out
    for expected in ('the grader does not call the two files right', 'differs in 2 lines'):
        assert expected in printed, printed
    assert "layer.py is the repository's" not in printed


CHANGES = [     # what the student of the next test changes in the notebook
    (r'^EPOCH = \d+', 'EPOCH = 1'), ('^SUBMIT = None', "SUBMIT = 'mine'"),
    (r'^best = max\(', """mine = model.Network([PixelScaling(), FullyConnected(784, 20), Tanh(),
                      FullyConnected(20, 47)])
mine.fit(training, validation, 1, 50, 0.1)
add_network('mine', mine, 0.1, 'me')
best = max(""")]


@pytest.mark.skipif(not hand_in.build.is_repositorys(NOTEBOOK), reason='the notebook is your own')
def test_readmes_steps_with_another_network_other_epochs_and_other_data(project, capfd):
    """The zip holds this student's code, outputs and submission, whatever the files held before."""
    subprocess.check_call([sys.executable, os.path.join(ROOT, 'data', 'prepare.py'), 'stand-in',
                           '--train-rows', '1500', '--test-rows', '130', '--folder',
                           str(project / 'data'), '--force'])
    (project / 'data' / 'stand-in.txt').unlink()      # as if they were the competition's
    changed = nbformat.read(NOTEBOOK, 4)
    for old, new in CHANGES:
        found = 0
        for cell in changed.cells:
            cell.source, count = re.subn(old, new, cell.source, flags=re.MULTILINE)
            found += count
        assert found == 1, f'{old} stands {found} times in the notebook, expected once'
    nbformat.write(changed, str(project / 'Lab1_studentid.ipynb'))
    run(project)
    files, submission = packed(project)
    cells = nbformat.reads(files['Lab1_311551001.ipynb'].decode('utf-8'), 4).cells
    outputs = sum([cell.get('outputs', []) for cell in cells], [])
    printed = ''.join(output.get('text', '') for output in outputs)
    assert [cell.source for cell in cells] == [cell.source for cell in changed.cells]
    assert '(1500, 784)' in printed and 'Epoch:  2' not in printed
    table = np.array([line.split(',') for line in submission.decode().split()[1:]], int)
    assert table[:, 0].tolist() == list(range(130))
    checksum = np.prod(table, axis=1).sum()
    assert f'130 predictions of the network "mine". Trained by me. Checksum: {checksum}' in printed
    assert 'differs in' in capfd.readouterr().out


@pytest.mark.parametrize('content', [
    notebook(SOURCE, minor=5, ids=True), notebook(SOURCE, minor=9, ids=True),
    notebook(SOURCE, ids=True), notebook(SOURCE, minor=5), b'\xef\xbb\xbf' + notebook(SOURCE)])
def test_notebooks_of_other_programs_are_read(content, tmp_path):
    (tmp_path / 'n.ipynb').write_bytes(content)
    nbformat.validate(hand_in.read_notebook(tmp_path / 'n.ipynb'))


def test_the_notebook_runs_with_this_python(project, monkeypatch):
    kernel = project / 'kernels' / 'python3'
    kernel.mkdir(parents=True)
    other = {'argv': ['no-python', '{connection_file}'], 'display_name': '3', 'language': 'python'}
    (kernel / 'kernel.json').write_text(json.dumps(other))
    monkeypatch.setenv('JUPYTER_PATH', str(project))
    monkeypatch.setenv('EXPECTED', sys.executable)
    source = "import os, sys; assert sys.executable == os.environ['EXPECTED']"
    (project / 'Lab1_studentid.ipynb').write_bytes(notebook(source, SOURCE, kernel='.venv (3.8)'))
    run(project)


# What is refused ----------------------------------------------------------------------------------

def write_notebook(*sources, **changes):
    return lambda folder: (folder / 'Lab1_studentid.ipynb').write_bytes(
        notebook(*(sources or (SOURCE,)), **changes))


def write_stand_in(folder):
    size = os.path.getsize(str(folder / 'data' / 'train.csv'))
    (folder / 'data' / 'stand-in.txt').write_text(f'train.csv {size} bytes\n')


LINES = ''.join(f'{row},{row}\n' for row in range(ROWS))
BROKEN = [     # what is done to the project, what the sentence says is wrong and what to do
    (lambda folder: (folder / 'network.py').unlink(), 'network.py is missing: fetch it again'),
    (lambda folder: (folder / 'Lab1_studentid.ipynb').unlink(), 'Lab1_studentid.ipynb is missing'),
    (lambda folder: (folder / 'Lab1_studentid.ipynb').write_text('[]'), 'in Jupyter and save it'),
    (lambda folder: (folder / 'Lab1_studentid.ipynb').write_bytes(b'\xff'), 'not a notebook'),
    (write_notebook("open('/home/me/data.csv')"), "has the absolute path '/home/me/data.csv'"),
    (lambda folder: (folder / 'layer.py').write_text("p = '/home/me'"), 'layer.py has the absolut'),
    (lambda folder: (folder / 'data' / 'test.csv').unlink(), 'test.csv is missing: copy the compe'),
    (lambda folder: (folder / 'data' / 'train.csv').unlink(), 'train.csv is missing: copy the'),
    (write_stand_in, "train.csv is a stand-in: put the competition's train.csv and test.csv"),
    (lambda folder: (folder / 'own.pdf').unlink(), 'own.pdf is missing'),
    (lambda folder: (folder / 'own.pdf').write_bytes(b'PK word'), 'own.pdf is no PDF file: export'),
    (write_notebook(SOURCE.replace('network', 'helper')), 'do not run (ModuleNotFoundError: No'),
    (write_notebook('raise ImportError("a\\n\\nb")'), 'do not run (ImportError: a b): they may'),
    (write_notebook('1'), 'the four files by themselves wrote no DLAD-test-predict.csv'),
    (write_notebook('import os; os._exit(1)'), 'Python ended in code cell 1, as it does without')]


@pytest.mark.parametrize('damage, expected', BROKEN, ids=[row[1] for row in BROKEN])
def test_each_check_refuses_in_one_sentence_and_nothing_is_written(project, damage, expected):
    damage(project)
    complaint = refusal(run, project)
    assert expected in complaint, f'got {complaint}, expected {expected!r}'
    assert not list((project.parent / 'out').iterdir())


@pytest.mark.parametrize('text, expected', [
    ('Id,Label\n' + LINES, 'the first line is not Id,Category'), ('', 'the first line is not'),
    ('\ufeffId,Category\n' + LINES, 'the first line is not'),
    ('Id,Category\n' + LINES[:-4], 'has 9 predictions, expected 10, the rows of test.csv'),
    ('Id,Category\n' + LINES + '10,0', 'has 11 predictions'), ('Id,Category\n0\n', "line 2 is '0'"),
    ('Id,Category\n1,0\n', "line 2 is '1,0', expected 0 and a label 0..46"),
    ('Id,Category\n0,3.0\n', "line 2 is '0,3.0'"), ('Id,Category\n0, 3\n', "line 2 is '0, 3'"),
    ('Id,Category\n0,47\n', "line 2 is '0,47'"), ('Id,Category\n0,-1\n', "line 2 is '0,-1'")])
def test_a_submission_in_another_form_is_refused(text, expected):
    hand_in.check_submission(b'Id,Category\n' + LINES.encode(), ROWS)
    with pytest.raises(ValueError) as error:
        hand_in.check_submission(text.encode('utf-8'), ROWS)
    assert expected in str(error.value)


@pytest.mark.parametrize('student', ['', 'studentid', '311 551', '../1', '\u0661', '1\n'])
def test_other_ids_are_refused(project, student):
    complaint = refusal(run, project, student=student)
    assert 'expected your own: letters, digits, - and _ only' in complaint


@pytest.mark.parametrize('text', [
    '/scratch/me', '/gpfs/a/b', '/usr/share/x', '//server/share', '~/lab', '~me/lab', 'D:/lab/x',
    'C:\\Users\\me', 'c:\\lab', '\\\\server\\share', 'file:///home/me', '/kaggle/input'])
def test_a_text_that_is_an_absolute_path_is_refused(text):
    for source in (f'open({text!r})', f'x = f{text + "{x}"!r}', f'%cd x\nx = {text!r}'):
        with pytest.raises(ValueError, match='n has the absolute path'):
            hand_in.check_paths(source, 'n')


@pytest.mark.parametrize('source', [
    "'Class A:\\nnext'", "table['A:']", "'x /opt/2'", "1 /tmp/x", "'a/home/b', '../tmp/x', '~'",
    "'https://x.org/home/page'", "# /home/me", "'/', '//', '/N'", '!ls /home/me', "'%d:\\n' % 3",
    "r'\\mathbb{R}'", "'not closed", '"""\n/home/me/x is where I was\n"""'])
def test_a_text_that_only_looks_like_a_path_passes(source):
    hand_in.check_paths(source, 'n')


# What goes wrong on the way -----------------------------------------------------------------------

def test_a_kernel_that_cannot_start_and_a_full_disk_end_in_a_sentence(project, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(project))      # for the kernel: it ends at once
    (project / 'ipykernel_launcher.py').write_text('raise SystemExit(3)')
    assert 'the notebook was not started (Kernel died' in refusal(run, project)

    def no_space(*arguments, **options):
        raise OSError(28, 'No space left on device', 'data/train.csv')

    monkeypatch.setattr(hand_in.shutil, 'copy', no_space)
    assert "No space left on device: 'data/train.csv': free space" in refusal(run, project)
    monkeypatch.setattr(hand_in, 'rehearse', lambda *arguments: bytearray(2 ** 62))
    assert 'too little memory' in refusal(run, project)


COMMAND = """import pathlib, sys
sys.path.insert(0, sys.argv[1])
import hand_in
hand_in.GRADER = pathlib.Path(sys.argv[3])
hand_in.main(['311', '--report', sys.argv[2] + '/own.pdf'], pathlib.Path(sys.argv[2]))
"""


@pytest.mark.skipif(os.name == 'nt', reason='Windows has other signals')
@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM', 'SIGHUP'])
def test_a_signal_ends_it_in_a_sentence_and_leaves_nothing(project, tmp_path, name):
    started = project / 'started'
    (project / 'Lab1_studentid.ipynb').write_bytes(notebook(
        "import os, time; open(os.environ['STARTED'], 'w').write(str(os.getpid())); "
        "time.sleep(600)"))
    (tmp_path / 'tmp').mkdir()
    environment = dict(os.environ, TMPDIR=str(tmp_path / 'tmp'), STARTED=str(started),
                       JUPYTER_RUNTIME_DIR=str(tmp_path / 'tmp' / 'runtime'))
    process = subprocess.Popen(
        [sys.executable, '-c', COMMAND, os.path.join(ROOT, 'report'), str(project),
         str(hand_in.GRADER)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A shell's background jobs ignore some signals, and would hand this on
        preexec_fn=lambda: signal.signal(getattr(signal, name), signal.SIG_DFL))
    while process.poll() is None and not (started.exists() and started.read_text()):
        time.sleep(0.1)
    process.send_signal(getattr(signal, name))
    error = process.communicate(timeout=60)[1].decode()
    assert error == f'hand_in.py: stopped by {name}: nothing was written\n', error
    assert process.returncode == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
    left = [path for path in (tmp_path / 'tmp').rglob('*') if path.is_file()]
    assert not left and not list((tmp_path / 'out').iterdir()), left


# The report of the zip ----------------------------------------------------------------------------

def test_without_typst_a_sentence_names_the_package_and_the_other_way(project, monkeypatch):
    monkeypatch.setattr(hand_in.build, 'typst', None)
    complaint = refusal(hand_in.main, ['311551001'], project)
    assert hand_in.build.MISSING in complaint and 'with --report' in complaint


def test_the_report_is_built_with_the_students_name_id_and_date(project, monkeypatch):
    def arguments(name, student, date):
        return f'{name}, {student}, {date:%Y-%m-%d}'.encode('ascii')

    monkeypatch.setattr(hand_in.build, 'typst', 'is here')
    monkeypatch.setattr(hand_in.build, 'build', arguments)
    hand_in.main(['311551001', '--name', 'A. Student', '--date', '2022-10-06'], project)
    got = packed(project)[0]['Lab1_report_311551001.pdf']
    assert got == b'A. Student, 311551001, 2022-10-06', f'got {got}'
