#!/usr/bin/env python3
"""Say what is wrong with a data file of the lab, in which line, and what to do about it.

    python check.py                 check train.csv and test.csv beside this script
    python check.py FILE ...        check these files

A file whose name begins with "test" is expected to have 784 numbers a line, a file whose name begins
with "train" a label more. Any other file is judged by its first line. The first fault of a file is
printed. Exit code: 0 all files are fine, 1 a fault was found, 2 wrong usage.
"""
import collections
import os
import re
import sys

CLASSES = 47
PIXELS = 28 * 28
HEAD = 2 ** 16                      # bytes at the start of a file that show what kind of file it is
LONGEST = 2 ** 14                   # bytes; a good line has at most 785 * 4 + 2
GOOD = {str(number).encode() for number in range(256)}
PACKED = {b'PK\x03\x04': 'zip', b'\x1f\x8b': 'gzip', b'BZh': 'bzip2', b'\xfd7zXZ\x00': 'xz',
          b'7z\xbc\xaf': '7z', b'Rar!': 'rar'}
BOM = b'\xef\xbb\xbf'               # the byte order mark that Excel writes; it does no harm
AGAIN = 'copy or download the file again'


def check(path):
    """Check a file; return (True, a summary) or (False, the first fault and what to do)."""
    if not os.path.isfile(path):
        return False, f'it is missing or not a file: copy it there, or make it with prepare.py'
    with open(path, 'rb') as file:
        head = file.read(HEAD)
        fault = file_fault(head) or columns_fault(head, path)
        if fault:
            return False, fault
        file.seek(0)
        columns = wanted_columns(path, head_lines(head)[0])
        first_fields = collections.Counter()
        last_fields = collections.Counter()
        number = 0
        for line in iter(lambda: file.readline(LONGEST), b''):
            number += 1
            fields = line.strip(BOM + b' \t\r\n').split(b',')
            if len(fields) != columns or not GOOD.issuperset(fields):
                fault = line_fault(line, columns, number)
                if fault:
                    return False, f'line {number}: {fault}'
            if fields != [b'']:
                first_fields[int(fields[0])] += 1
                last_fields[int(fields[-1])] += 1
    summary = f'{sum(first_fields.values())} rows of {columns} integers'
    if columns == PIXELS:
        return True, summary
    fault = label_fault(first_fields, last_fields)
    if fault:
        return False, fault
    return True, f'{summary}, labels 0..{CLASSES - 1}, {len(first_fields)} classes'


def wanted_columns(path, line):
    """Return how many numbers a line of this file must have."""
    name = os.path.basename(path).lower()
    if name.startswith('test'):
        return PIXELS
    if name.startswith('train'):
        return PIXELS + 1
    return PIXELS if line.count(b',') + 1 == PIXELS else PIXELS + 1


def head_lines(head):
    """Return the whole lines at the start of a file, without blank lines; at least one line."""
    lines = head.lstrip(BOM).splitlines()
    if len(head) == HEAD:
        lines = lines[:-1]                          # the last one is cut off
    return [line.strip() for line in lines if line.strip()] or [b'']


def file_fault(head):
    """Say what is wrong with a file as a whole, judged by its first bytes; None if nothing is."""
    for start, name in PACKED.items():
        if head.startswith(start):
            if name == 'zip' and b'[Content_Types].xml' in head:
                return 'it is an Excel workbook: open it and save the table as CSV'
            return f'it is still packed ({name}): unpack it, the CSV file is inside'
    if not head.strip(BOM + b' \t\r\n'):
        return f'it is empty: {AGAIN}'
    if head.startswith((b'\xff\xfe', b'\xfe\xff')) or head[1::2].count(b'\0') > len(head) // 4:
        return 'it is written in UTF-16: open it in an editor and save it as UTF-8'
    if head.lstrip(BOM + b' \t\r\n').startswith(b'<'):
        return 'it is a web page: sign in to the web site, then download the file again'
    if head.startswith(b'version https://git-lfs'):
        return "it is a Git LFS pointer: run 'git lfs pull', or download the file itself"
    if b'\r' in head and b'\n' not in head:
        return ('its line ends are those of an old Mac (CR): open it in an editor and save it with '
                'the line ends of Windows or Unix')
    return None


def columns_fault(head, path):
    """Say what is wrong with the columns, judged by the first lines; None if nothing is."""
    lines = head_lines(head)
    columns = wanted_columns(path, lines[0])
    for separator, name in ((b';', 'semicolons'), (b'\t', 'tabs'), (b' ', 'blanks')):
        if lines[0].count(separator) >= PIXELS - 1 and lines[0].count(b',') < PIXELS - 1:
            return f'its numbers are separated by {name}: replace each by a comma'
    fields = lines[0].replace(b'"', b'').split(b',')
    starts = [line.split(b',')[0].strip(b'"') for line in lines[1:4]]
    has_index = starts in ([b'0', b'1', b'2'], [b'1', b'2', b'3'])
    if is_header(fields):
        if len(fields) == columns + 1 and has_index:
            return ('line 1 is a header and the first column counts the rows: delete both, in '
                    'pandas with to_csv(header=False, index=False)')
        return 'line 1 is a header: delete this line'
    starts = [line.split(b',')[0] for line in lines[:4]]
    has_index = starts in ([b'0', b'1', b'2', b'3'], [b'1', b'2', b'3', b'4'])
    if len(fields) == columns + 1 and fields[-1] == b'':
        return 'line 1: a comma stands at the end of the line: delete the last comma of each line'
    if len(fields) == columns + 1 and has_index:
        return ('the first column counts the rows: delete this column, in pandas with '
                'to_csv(header=False, index=False)')
    if len(fields) == columns + 1 and columns == PIXELS:
        return ('line 1 has 785 numbers, expected 784: it has a label column, as train.csv has; '
                'if the two files are swapped, swap their names, else delete the first column')
    if len(fields) == columns - 1 and columns == PIXELS + 1:
        return ('line 1 has 784 numbers, expected 785: the label column is missing, as in test.csv; '
                'if the two files are swapped, swap their names')
    return None


def is_header(fields):
    """Tell whether the fields of line 1 are names, or count the columns."""
    named = [field for field in fields if re.search(b'[A-Za-z]', field)]
    if len(named) > len(fields) // 2:
        return True
    counting = [field for field in fields if field]
    return len(fields) > 4 and counting[:300] in (
        [b'%d' % number for number in range(len(counting))][:300],
        [b'%d' % number for number in range(1, len(counting) + 1)][:300])


def line_fault(line, columns, number):
    """Say what is wrong with a line; None if nothing is that harms."""
    text = line.strip(BOM + b' \t\r\n')
    if not text:
        return None                                 # a blank line is skipped
    if b'\0' in line:
        return f'it holds NUL bytes, so the file is damaged: {AGAIN}'
    if len(line) == LONGEST:
        return f'it is longer than {LONGEST} bytes, a line end is missing: {AGAIN}'
    fields = text.split(b',')
    wrong = [index for index, field in enumerate(fields)
             if not (field.isdigit() and int(field) < 256)]
    if wrong:
        place = wrong[0] + 1
        field = fields[wrong[0]]
        got = f'field {place} is {field[:20].decode("latin-1")!a}'
        if b'"' in field:
            return f'{got}: delete the quote marks, in the whole file'
        if not field.strip():
            return f'field {place} is blank, expected an integer 0..255: {AGAIN}'
        if place == 1 and columns > PIXELS and re.match(b'[A-Za-z]$', field):
            return f'the label is a letter, {got[11:]}: write the number of its class, 0..46'
        if field.strip() != field or b' ' in field:
            return f'{got}: delete the blanks, in the whole file'
        if re.match(br'[+-]?\d+\.0*$', field):
            return f"{got}: write integers without a decimal point, in NumPy with fmt='%d'"
        if re.match(br'[+-]?\d*\.\d+|[+-]?[\d.]+[eE]', field):
            return (f'{got}: the pixels seem to be scaled, expected integers 0..255; use the '
                    f'original file, or multiply by 255 and round')
        if re.match(br'-?\d+$', field):
            return f'{got}, expected 0..255: this is not the data of the lab, {AGAIN}'
        return f'{got}, expected an integer 0..255: {AGAIN}'
    if len(fields) != columns:
        if not line.endswith((b'\n', b'\r')):
            return f'the file breaks off here, after {len(fields)} of {columns} numbers: {AGAIN}'
        return f'it has {len(fields)} numbers, expected {columns}: {AGAIN}'
    return None


def label_fault(first_fields, last_fields):
    """Say what is wrong with the labels, given how often each first and last number occurs."""
    if max(last_fields) < CLASSES and len(last_fields) > len(first_fields):
        return 'its labels are in the last column: move this column to the front'
    if min(first_fields) == 1 and max(first_fields) == CLASSES:
        return 'its labels are 1..47, expected 0..46: subtract 1 from each label'
    if max(first_fields) >= CLASSES:
        return (f'it has the label {max(first_fields)}, expected 0..46: this is not the data of the '
                f'lab, use its train.csv')
    missing = sorted(set(range(CLASSES)) - set(first_fields))
    if missing:
        shown = ', '.join([str(label) for label in missing[:5]]) + ', ...' * (len(missing) > 5)
        return (f'{len(missing)} of the 47 classes have no row (labels {shown}): it is a part of the '
                f'data or another data set, use the train.csv of the lab')
    return None


def main(paths):
    """Check the files and print a line for each; return the exit code."""
    if any(path.startswith('-') for path in paths):
        print(__doc__, file=sys.stderr)
        return 0 if paths in (['-h'], ['--help']) else 2
    here = os.path.dirname(os.path.abspath(__file__))
    code = 0
    for path in paths or [os.path.join(here, 'train.csv'), os.path.join(here, 'test.csv')]:
        try:
            fine, text = check(path)
        except OSError as error:
            fine, text = False, f'it cannot be read ({error.strerror})'
        shown = os.path.basename(path).encode('ascii', 'backslashreplace').decode('ascii')
        print(f'{shown}{": " if fine or not text.startswith("line ") else ", "}{text}')
        code = code if fine else 1
    return code


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
