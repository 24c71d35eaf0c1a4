#!/usr/bin/env python3
"""Make the lab's data files: train.csv, test.csv and test_labels.csv.

There are three ways; README.md beside this script tells more:

    python prepare.py stand-in      draw a stand-in from fonts; needs no download
    python prepare.py idx FOLDER    convert the official EMNIST Balanced files in FOLDER
    python prepare.py download      fetch those files from NIST, then convert them

From Python: `stand_in.make_stand_in`, `official.make_from_idx` and `official.download`.
"""
import argparse
import os
import signal
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)    # which Python leaves out where PYTHONSAFEPATH is set

from csv_files import FILES, TEST_ROWS, TRAIN_ROWS, check_request      # noqa: E402
from official import (IMAGES_NAME, LABELS_NAME, ZIP_URL, download,      # noqa: E402
                      make_from_idx)
from stand_in import make_stand_in      # noqa: E402

WAYS = {
    'stand-in': 'draw characters from fonts; they are not EMNIST and not handwriting',
    'idx': f"convert EMNIST Balanced's {IMAGES_NAME} and {LABELS_NAME}",
    'download': 'fetch these two files (about 30 MB) from NIST, then convert them',
}


class Progress:
    """Show on stderr how far a task is and how long its rest may take."""

    def __init__(self):
        self.started = time.monotonic()
        self.shown = self.started

    def __call__(self, task, done, total):
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        pause = 0.2 if terminal else 10         # seconds between two displays
        if done < total and now - self.shown < pause:
            return
        left = (now - self.started) * (total - done) / done
        end = '\r' if terminal and done < total else '\n'
        print(f'{done:,} of {total:,} {task}, about {left:.0f} s left   ', end=end, file=sys.stderr,
              flush=True)
        self.shown = now
        if done == total:
            self.started = now                  # of the next task


def parse_arguments(arguments):
    """Turn command-line arguments into options, named like the arguments of the functions."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument('--folder', default=HERE,
                        help="where the files go (default: this script's folder)")
    shared.add_argument('--train-rows', type=int, default=TRAIN_ROWS, metavar='N',
                        help='rows of train.csv (default: %(default)s)')
    shared.add_argument('--test-rows', type=int, default=TEST_ROWS, metavar='N',
                        help='rows of test.csv (default: %(default)s)')
    shared.add_argument('--seed', type=int, default=0, metavar='N',
                        help='the same seed gives the same files (default: %(default)s)')
    shared.add_argument('--force', action='store_true',
                        help='replace the files that are there, whatever they are')
    parser = argparse.ArgumentParser(
        description="Make the lab's train.csv and test.csv, and test_labels.csv to score with.",
        epilog='Exit code: 0 done, 2 refused or failed (the reason on stderr), 130 interrupted. '
               'Whatever happens, files under their final names are whole. '
               "'prepare.py WAY --help' lists the options of a way.")
    ways = parser.add_subparsers(dest='way', metavar='WAY')
    ways.required = True
    for way, text in WAYS.items():
        way_parser = ways.add_parser(way, parents=[shared], help=text, description=text)
        if way == 'idx':
            way_parser.add_argument('source', help='the folder that holds these two files')
        if way == 'download':
            way_parser.add_argument('--url', default=ZIP_URL,
                                    help='address of the zip (default: %(default)s)')
    return parser.parse_args(arguments)


def make(options):
    """Make the files in the way that the options name."""
    request = dict(folder=options.folder, train_rows=options.train_rows,
                   test_rows=options.test_rows, seed=options.seed, force=options.force)
    report = Progress()
    if options.way == 'stand-in':
        make_stand_in(report=report, **request)
    elif options.way == 'idx':
        make_from_idx(options.source, report=report, **request)
    else:
        check_request(**request)
        download(options.folder, options.url, report=report)
        make_from_idx(options.folder, report=report, **request)


def main(arguments=None):
    """Run the command line; return its exit code."""
    options = parse_arguments(arguments)
    try:
        make(options)
    except (ValueError, OSError) as error:
        say(f'prepare.py: {error}', sys.stderr)
        return 2
    except KeyboardInterrupt:
        say('prepare.py: interrupted; files under their final names are whole', sys.stderr)
        return 130
    say(f'wrote {", ".join(FILES)} to {options.folder}', sys.stdout)
    return 0


def say(text, stream):
    """Print a line in ASCII, which every terminal can show, whatever the folder's name is."""
    print(text.encode('ascii', 'backslashreplace').decode('ascii'), file=stream)


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, signal.default_int_handler)   # tidy up as after Ctrl-C
    sys.exit(main())
