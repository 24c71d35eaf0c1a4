"""Write report/repository.json: a number for each file that is the repository's own.

    python .ci/repository.py             write it, before a commit that changes one of these files
    python .ci/repository.py --check     exit code 1 if it is old
"""
import json
import os
import sys
import zlib

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'report'))

import build      # noqa: E402

FILES = ('layer.py', 'network.py', 'Lab1_studentid.ipynb', 'report/report.typ',
         'report/experiments.csv')


def main():
    """Write the numbers, or compare them."""
    path = os.path.join(ROOT, 'report', 'repository.json')
    numbers = {os.path.basename(name): build.words_crc(os.path.join(ROOT, name)) for name in FILES}
    with open(os.path.join(ROOT, 'Lab1_studentid.ipynb'), 'rb') as file:
        numbers['executed notebook'] = zlib.crc32(file.read())
    text = json.dumps(numbers, indent=1) + '\n'
    if '--check' in sys.argv:
        with open(path) as file:
            sys.exit(0 if file.read() == text else f'{path} is old: run .ci/repository.py')
    with open(path, 'w') as file:
        file.write(text)


if __name__ == '__main__':
    main()
