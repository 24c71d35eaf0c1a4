#!/usr/bin/env python3
"""Say what is wrong with a data file of the lab, in which line, and what to do about it.

    python check.py                 check train.csv and test.csv beside this script
    python check.py FILE ...        check these files

A line must have 785 numbers in a file whose name begins with "train", 784 where it begins with
"test", and one in test_labels.csv. Any other file is judged by its first line. For each file the
first fault is printed. Exit code: 0 all files are fine, 1 a fault was found, 2 wrong usage.
"""
import glob
import os
import re
import sys

CLASSES = 47
PIXELS = 28 * 28
HEAD = 2 ** 17                      # bytes at the start of a file that show what kind of file it is
LONGEST = 2 ** 15                   # bytes; a line has about 3000, as np.savetxt writes it 20000
GOOD = {str(number).encode() for number in range(256)}
PACKED = {b'PK\x03\x04': 'zip', b'\x1f\x8b': 'gzip', b'BZh': 'bzip2', b'\xfd7zXZ\x00': 'xz',
          b'7z\xbc\xaf': '7z', b'Rar!': 'rar'}
PACKED_ENDINGS = ('.zip', '.7z', '.rar', '.gz', '.tgz', '.bz2', '.xz')
ARCHIVES = ('.zip', '.7z', '.rar', '.tgz', '.tar.gz')       # whose names do not tell what is inside
HARMLESS = b'\xef\xbb\xbf \t\r\n'   # around a line: Excel's byte order mark, blanks, line ends
AGAIN = 'copy or download the file again'


def check(path):
    """Check a file; return (True, a summary) or (False, the first fault and what to do)."""
    if not os.path.isfile(path):
        fault = misplaced_fault(path)
        return False, fault or 'it is missing: copy it there, or make it with prepare.py'
    with open(path, 'rb') as file:
        head = file.read(HEAD)
        lines = head_lines(head)
        columns = wanted_columns(path, lines[0])
        fault = file_fault(head) or columns_fault(lines, columns)
        if fault:
            return False, fault
        file.seek(0)
        return check_lines(file, columns)


def refuse_misplaced(folder):
    """Raise FileNotFoundError if train.csv or test.csv is not in `folder`, but packed or renamed.

    A sentence names what is there and what to do. Nothing happens if there is no trace of them.
    """
    for name in ('train.csv', 'test.csv'):
        path = os.path.join(folder, name)
        fault = misplaced_fault(path)
        if fault:
            raise FileNotFoundError(f'{path}: {fault}')


def misplaced_fault(path):
    """Say where a missing file is packed, renamed or one folder down; None if it is nowhere."""
    if os.path.isfile(path):
        return None
    folder, name = os.path.split(path)
    inside = os.path.join(glob.escape(folder), '*')
    entries = sorted(glob.glob(inside)) + sorted(glob.glob(os.path.join(inside, '*')))
    found = [entry for entry in entries if is_form_of(name, entry) and os.path.isfile(entry)]
    found += [entry for entry in sorted(glob.glob(inside)) if entry.lower().endswith(ARCHIVES)]
    found.sort(key=is_packed)                       # what is unpacked already comes first
    if not found:
        return None
    remedy = f'rename it to {name}'
    if is_packed(found[0]):
        remedy = 'unpack it'
    elif os.path.dirname(found[0]) != folder:
        remedy = f'move it up to {path}'
    return f'it is missing, but {found[0]} is there: {remedy}'


def is_form_of(name, path):
    """Tell whether `path` is called like `name`, as "train (1).csv" and "Train.csv.zip" are."""
    start = re.escape(os.path.splitext(name)[0])
    pattern = start + r'(?!_labels|[a-z]).*\.csv(\.(csv|txt|zip|gz|7z|rar|bz2|xz))?$'
    return re.match(pattern, os.path.basename(path), re.IGNORECASE)


def is_packed(path):
    """Tell whether the name of a file says that it is packed."""
    return path.lower().endswith(PACKED_ENDINGS)


def check_lines(file, columns):
    """Check every line of an open file; return as check does."""
    labels = {}                                     # number in column 1: its first line
    last_fields = {}
    rows = 0
    number = 1
    line = file.readline(LONGEST)
    while line:
        fields = line.strip(HARMLESS).split(b',')
        if len(fields) != columns or not GOOD.issuperset(fields):
            fault = line_fault(line, columns)
            if fault:
                return False, f'line {number}: {fault}'
        if fields != [b'']:
            labels.setdefault(int(fields[0]), number)
            last_fields.setdefault(int(fields[-1]), number)
            rows += 1
        number += 1
        line = file.readline(LONGEST)
    if not rows:
        return False, f'it is empty: {AGAIN}'
    summary = f'{rows} rows of {columns} integers'
    if columns == PIXELS:
        return True, summary
    fault = label_fault(labels, last_fields)
    if fault:
        return False, fault
    return True, f'{summary}, labels 0..{CLASSES - 1}, {len(labels)} classes'


def wanted_columns(path, line):
    """Return how many numbers a line of this file must have."""
    name = os.path.basename(path).lower()
    if name.startswith('test_labels'):
        return 1
    if name.startswith('test'):
        return PIXELS
    if name.startswith('train'):
        return PIXELS + 1
    return PIXELS if line.count(b',') + 1 == PIXELS else PIXELS + 1


def head_lines(head):
    """Return the whole lines at the start of a file, without blank lines; at least one line."""
    lines = head.splitlines()
    if len(head) == HEAD:
        lines = lines[:-1]                          # the last one is cut off
    lines = [line.strip(HARMLESS) for line in lines]
    return [line for line in lines if line] or [b'']


def file_fault(head):
    """Say what is wrong with a file as a whole, judged by its first bytes; None if nothing is."""
    if head.startswith(b'PK') and b'[Content_Types].xml' in head:
        return 'it is an Excel workbook: open it and save the table as CSV'
    for start, name in PACKED.items():
        if head.startswith(start):
            return f'it is still packed ({name}): unpack it, the CSV file is inside'
    if head.startswith((b'\xff\xfe', b'\xfe\xff')) or head.count(b'\0') > len(head) // 4:
        return 'it is written in UTF-16: open it in an editor and save it as UTF-8'
    if head.strip(HARMLESS).startswith(b'<'):
        return 'it is a web page: sign in to the web site, then download the file again'
    if head.startswith(b'version https://git-lfs'):
        return "it is a Git LFS pointer: run 'git lfs pull', or download the file itself"
    if b'\r' in head and b'\n' not in head:
        return ('its line ends are those of an old Mac (CR): open it in an editor and save it with '
                'the line ends of Windows or Unix')
    return None


def columns_fault(lines, columns):
    """Say what is wrong with the columns, judged by the first lines; None if nothing is."""
    for separator, name in ((b';', 'semicolons'), (b'\t', 'tabs'), (b' ', 'blanks')):
        if lines[0].count(separator) >= PIXELS - 1 and lines[0].count(b',') < PIXELS - 1:
            return f'its numbers are separated by {name}: replace each by a comma'
    fields = lines[0].replace(b'"', b'').split(b',')
    extra = len(fields) - columns
    header = is_header(fields)
    rows = lines[1:] if header else lines
    index = extra == 1 and counts_up([row.split(b',')[0].strip(b'"') for row in rows])
    surplus = []
    if header:
        surplus.append('line 1 is a header')
    if index:
        surplus.append('the first column counts the rows')
    if surplus:
        return (f'{" and ".join(surplus)}: delete what is not data, in pandas with '
                f'to_csv(header=False, index=False)')
    if extra == 1 and fields[-1] == b'':
        return 'line 1: a comma stands at its end: delete the last comma of each line'
    if extra == 1 and columns == PIXELS:
        return ('line 1 has 785 numbers, expected 784: it has a label column, as train.csv has; '
                'if the two files are swapped, swap their names, else delete the first column')
    if extra == -1 and columns == PIXELS + 1:
        return ('line 1 has 784 numbers, expected 785: the label column is missing, as in '
                'test.csv; if the two files are swapped, swap their names')
    return None


def is_header(fields):
    """Tell whether the fields of line 1 are names, or count the columns."""
    names = [field for field in fields if re.search(b'[A-DF-Za-df-z]', field)]    # not 1e2
    return len(names) > len(fields) // 2 or counts_up(fields) or counts_up(fields[1:])


def counts_up(fields):
    """Tell whether three or more fields are 0, 1, 2 ... or 1, 2, 3 ..."""
    from_0 = [b'%d' % number for number in range(len(fields))]
    from_1 = [b'%d' % (number + 1) for number in range(len(fields))]
    return len(fields) >= 3 and fields in (from_0, from_1)


def line_fault(line, columns):
    """Say what is wrong with a line; None if nothing is that does harm."""
    text = line.strip(HARMLESS)
    fields = text.split(b',')
    if not text:
        return None                                 # a blank line is skipped
    if b'\0' in line:
        return f'it holds NUL bytes, so the file is damaged: {AGAIN}'
    if len(line) == LONGEST:
        return f'it is longer than {LONGEST} bytes, a line end is missing: {AGAIN}'
    if len(fields) < columns and not line.endswith((b'\n', b'\r')):
        return f'the file breaks off here, after {len(fields)} of {columns} numbers: {AGAIN}'
    if columns != PIXELS and re.match(b'[A-Za-z]$', fields[0]):
        return f'the label is the letter {fields[0].decode()}: write the number of its class, 0..46'
    for index, field in enumerate(fields):
        if not field.isdigit() or int(field) > 255:
            shown = field[:20].decode('latin-1')
            return f'field {index + 1} is {shown!a}, {field_fault(field, fields)}'
    if len(fields) != columns:
        return f'it has {len(fields)} numbers, expected {columns}: {AGAIN}'
    return None


def field_fault(field, fields):
    """Say what is wrong with a field that is not an integer 0..255; fields: all of its line."""
    if not field.strip():
        return f'expected an integer 0..255: {AGAIN}'
    if b'"' in field:
        return 'expected a number without quote marks: delete the quote marks in the whole file'
    if b' ' in field:
        return 'expected a number without blanks: delete the blanks in the whole file'
    if re.match(br'[+-]?\d+$', field):
        return f'expected an integer 0..255: this is not the data of the lab, {AGAIN}'
    if not re.match(br'[+-]?\d*\.?\d*([eE][+-]?\d+)?$', field):
        return f'expected an integer 0..255: {AGAIN}'
    if any(has_fraction(other) for other in fields):
        return ('expected an integer 0..255, and the pixels seem to be scaled: use the original '
                'file, or multiply by 255 and round')
    return "expected an integer: write the file without decimal points, in NumPy with fmt='%d'"


def has_fraction(field):
    """Tell whether a field is a number such as 0.5, not 3, 3.0 or 3e1."""
    try:
        return float(field) % 1 != 0
    except ValueError:
        return False


def label_fault(labels, last_fields):
    """Say what is wrong with the labels; None if nothing is.

    labels, last_fields: {number in the first or last column: the line where it first occurs}.
    """
    largest = max(labels)
    if max(last_fields) < CLASSES and len(last_fields) > len(labels):
        return 'its labels are in the last column: move this column to the front'
    if min(labels) == 1 and largest == CLASSES:
        return 'its labels are 1..47, expected 0..46: subtract 1 from each label'
    if largest >= CLASSES:
        return (f'line {labels[largest]}: the label is {largest}, expected 0..46: this is not the '
                f'data of the lab, use the train.csv of the lab')
    missing = sorted(set(range(CLASSES)) - set(labels))
    if missing:
        return (f'{len(missing)} of the 47 classes have no row, label {missing[0]} is one of them: '
                f'it is a part of the data or another data set, use the train.csv of the lab')
    return None


def main(paths):
    """Check the files and print a line for each; return the exit code."""
    if any(path.startswith('-') for path in paths):
        print(__doc__, file=sys.stderr)
        return 0 if paths in (['-h'], ['--help']) else 2
    here = os.path.dirname(os.path.abspath(__file__))
    code = 0
    if not paths:
        paths = [os.path.join(here, 'train.csv'), os.path.join(here, 'test.csv')]
    for path in paths:
        try:
            fine, text = check(path)
        except OSError as error:
            fine, text = False, f'it cannot be read ({error.strerror})'
        shown = os.path.basename(path).encode('ascii', 'backslashreplace').decode('ascii')
        print(f'{shown}: {text}')                   # in ASCII, which every terminal can show
        if not fine:
            code = 1
    return code


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
