"""Typeset report.typ as the lab's report.

    python report/build.py --name "A. Student" --id 311551001 --date 2022-10-06

The numbers come from facts.json and the figures from figures/, which report/facts.py makes. The
same files, name, id and date give the same bytes.
"""
import argparse
import datetime
import glob
import os
import sys
import unicodedata
import zlib

try:
    import typst
except ImportError:
    typst = None

HOME = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(HOME)
sys.path.insert(0, PROJECT)

from network import replacing      # noqa: E402

MISSING = ('the report needs the Python package typst: python -m pip install -r '
           'report/requirements.txt (Python 3.9 or newer)')
SOURCES = ('report.typ', 'helpers.typ', 'facts.json')
GLYPH = b'''#set page(width: auto, height: auto, margin: 0pt)
#set text(font: "Libertinus Serif")
#sys.inputs.character'''


def glyph(character, fonts):
    """The drawing of one character, as an SVG file's bytes."""
    return typst.compile(GLYPH, format='svg', font_paths=fonts,
                         sys_inputs={'character': character})


def check_text(text, fonts):
    """ValueError, naming the character, if no font here can draw a character of `text`."""
    box = glyph('\U0010ffff', fonts)      # what stands for a character that no font has
    for character in text:
        if unicodedata.category(character) in ('Cc', 'Cs', 'Co', 'Cn'):
            raise ValueError(f'{text!a} has the control character U+{ord(character):04X}: '
                             'leave it out')
        if glyph(character, fonts) == box:
            name = unicodedata.name(character, 'without a name')
            raise ValueError(
                f'no font here can draw U+{ord(character):04X} ({name}): install a font that can, '
                'such as Noto Serif CJK, or name its folder with --fonts, or write it in other '
                'letters')


def fingerprint(folder):
    """A number of all that the document is made of. The PDF keeps it among its keywords."""
    names = [os.path.join(folder, name) for name in SOURCES]
    names += sorted(glob.glob(os.path.join(glob.escape(folder), 'figures', '*.svg')))
    crc = 0
    for name in names:
        with open(name, 'rb') as file:
            crc = zlib.crc32(file.read().replace(b'\r\n', b'\n'), crc)
    return f'fingerprint-{crc:08x}'


def build(output, name='', student='studentid', date=None, folder=HOME, fonts=()):
    """Typeset folder/report.typ to the PDF file `output`.

    name and student stand in the title as they are: nothing in them is markup. ValueError, in one
    sentence, if the package typst, a file, a fact or a glyph is missing, and nothing is written.
    """
    if typst is None:
        raise ValueError(MISSING)
    for needed in SOURCES:
        if not os.path.exists(os.path.join(folder, needed)):
            remedy = 'run report/facts.py' if needed == 'facts.json' else 'fetch it again'
            raise ValueError(f'{os.path.join(folder, needed)} is missing: {remedy}')
    fonts = list(fonts)
    check_text(name + student, fonts)
    date = date or datetime.date.today()
    midnight = datetime.datetime(date.year, date.month, date.day, tzinfo=datetime.timezone.utc)
    inputs = {'name': name, 'id': student, 'date': f'{date.day} {date:%B} {date.year}',
              'fingerprint': fingerprint(folder)}
    try:
        content = typst.compile(os.path.join(folder, 'report.typ'), root=folder,
                                font_paths=fonts, sys_inputs=inputs, timestamp=midnight)
    except typst.TypstError as error:
        raise ValueError(f'report.typ was not typeset: {error.message}')
    with replacing(output) as file:
        file.write(content)


def day(text):
    """'2022-10-06' -> the date."""
    try:
        return datetime.datetime.strptime(text, '%Y-%m-%d').date()
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not a date such as 2022-10-06')


def add_options(parser):
    """Add the options of the report, however it is made."""
    parser.add_argument('--name', default='', help='stands before the id')
    parser.add_argument('--date', type=day, metavar='YYYY-MM-DD', help='default: today')
    parser.add_argument('--fonts', action='append', default=[], metavar='FOLDER',
                        help='with more fonts, for names in other scripts')


def main(arguments=None):
    """Typeset the lab's report. Exit code 2, in one sentence, if it cannot be done."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add_options(parser)
    parser.add_argument('--id', default='studentid')
    parser.add_argument('--output', metavar='PDF',
                        default=os.path.join(PROJECT, 'Lab1_report_studentid.pdf'))
    options = parser.parse_args(arguments)
    try:
        build(options.output, options.name, options.id, options.date, fonts=options.fonts)
    except (ValueError, OSError) as error:
        print(f'build.py: {error}', file=sys.stderr)
        return 2
    print(f'Wrote {options.output}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
