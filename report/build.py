"""Typeset report.typ as the lab's report.

    python report/build.py --name "A. Student" --id 311551001 --date 2022-10-06

The numbers come from facts.json and the figures from figures/, which report/facts.py makes. The
same files, name, id and date give the same bytes.
"""
import argparse
import datetime
import glob
import json
import os
import sys
import zlib

try:
    import typst
except ImportError:
    typst = None

HOME = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(HOME)
sys.path[:0] = [PROJECT, os.path.join(PROJECT, 'leaderboard')]

from checkpoint import replacing      # noqa: E402

MISSING = ('the report needs the Python package typst: python -m pip install -r '
           'report/requirements.txt (Python 3.9 or newer)')


def fingerprint(folder):
    """A number of all that the document is made of. The PDF keeps it among its keywords."""
    paths = [os.path.join(folder, name) for name in ('report.typ', 'helpers.typ', 'facts.json')]
    paths += sorted(glob.glob(os.path.join(glob.escape(folder), 'figures', '*.svg')))
    crc = 0
    for path in paths:
        with open(path, 'rb') as file:
            crc = zlib.crc32(file.read().replace(b'\r\n', b'\n'), crc)
    return f'fingerprint-{crc:08x}'


def words_crc(path):
    """A number of the words of a text file. Blanks, and outputs of a notebook, do not count."""
    with open(str(path), encoding='utf-8') as file:
        text = file.read()
    if str(path).endswith('.ipynb'):
        text = ' '.join(''.join(cell['source']) for cell in json.loads(text)['cells'])
    return zlib.crc32(' '.join(text.split()).encode('utf-8'))


def is_repositorys(path, name=None):
    """True if a file has the words of the repository's own file of this name, else of its name.

    Their numbers are in repository.json, which .ci/repository.py writes.
    """
    with open(os.path.join(HOME, 'repository.json')) as file:
        expected = json.load(file)[name or os.path.basename(str(path))]
    return os.path.exists(str(path)) and words_crc(path) == expected


def build(name, student, date, folder=HOME):
    """Typeset folder/report.typ -> the bytes of the PDF, dated `date`, the start of a day in UTC.

    While the text or the runs are the repository's, the PDF says so and names nobody. Else name
    and student stand in the title as they are: nothing in them is markup. ValueError, in one
    sentence, if the package typst, a fact or a glyph is missing. FileNotFoundError for a file.
    """
    if typst is None:
        raise ValueError(MISSING)
    copied = [part for part in ('report.typ', 'experiments.csv')
              if is_repositorys(os.path.join(folder, part))]
    if copied and name + student != 'studentid':
        print(f"Note: {' and '.join(copied)} of the report are the repository's own. So the PDF "
              'says that it is a copy, and has no name. Write your own, from your own runs.')
    inputs = {'name': name, 'id': student, 'date': f'{date.day} {date:%B} {date.year}',
              'fingerprint': fingerprint(folder), 'copied': ' and '.join(copied)}
    try:
        return typst.compile(os.path.join(folder, 'report.typ'), root=folder, sys_inputs=inputs,
                             timestamp=date, pdf_standards=['a-2b'])      # it needs every glyph
    except typst.TypstError as error:
        raise ValueError(f'report.typ was not typeset: {error.message}')


def day(text):
    """'2022-10-06' -> the start of that day in UTC."""
    return datetime.datetime.strptime(f'{text} +0000', '%Y-%m-%d %z')


def add_options(parser):
    """Add the options of the report, however it is made."""
    parser.add_argument('--name', default='', help='stands before the id')
    parser.add_argument('--date', type=day, metavar='YYYY-MM-DD', help='default: today',
                        default=str(datetime.date.today()))


def main(arguments=None):
    """Typeset the lab's report, Lab1_report_ID.pdf. If it cannot be done, one sentence says why."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add_options(parser)
    parser.add_argument('--id', default='studentid')
    options = parser.parse_args(arguments)
    path = os.path.join(PROJECT, f'Lab1_report_{options.id}.pdf')
    try:
        content = build(options.name, options.id, options.date)
        with replacing(path) as file:
            file.write(content)
    except (ValueError, OSError) as error:
        sys.exit(f'build.py: {error}')
    print(f'Wrote {path}')


if __name__ == '__main__':
    main()
