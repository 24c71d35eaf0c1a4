"""The README's example prints what it says, and its table and the notebook's summary are what was measured."""
import doctest
import os
import re

import pandas as pd

from test_notebook import ROOT, printed_by, read_notebook

README = os.path.join(ROOT, 'README.md')


def test_readme_example():
    failed, tried = doctest.testfile(README, module_relative=False)
    assert tried >= 5 and not failed, '%d of %d examples failed' % (failed, tried)


def test_results_are_those_of_the_notebook_and_of_the_experiments():
    notebook = read_notebook()
    scores = {name: (float(plain), float(balanced)) for name, plain, balanced in re.findall(
        r'^(.*?) +validation ([\d.]+) %, balanced ([\d.]+) %$', printed_by(notebook), re.MULTILINE)}
    runs = pd.read_csv(os.path.join(ROOT, 'report', 'experiments.csv'))
    expected = [scores['baseline'], scores['baseline, even classes']]
    for factor in ('best fully connected', 'final network'):
        seeds = runs[runs.factor == factor]
        assert len(seeds) == 3
        expected.append((seeds.validation.mean(), seeds.balanced.mean()))
    final, spread = scores['larger network, even classes, 8 views'], [seeds.balanced.min(), seeds.balanced.max()]
    with open(README, encoding='utf-8') as file:
        text = file.read()
    stated = re.findall(r'^\| .* \| ([\d.]+) % \| ([\d.]+) % \|', text, re.MULTILINE)
    stated += re.findall(r'goes from ([\d.]+) % to ([\d.]+) %', text)
    stated += [re.findall(r'([\d.]+) %', notebook.cells[0].source)]
    expected += [spread, [scores['baseline'][0], 80, final[0], final[1]]]
    for texts, values in zip(stated, expected):
        assert len(texts) == len(values) and all(abs(float(text) - value) < 0.056 for text, value in zip(
            texts, values)), 'stated %s, measured %s' % (texts, values)
    assert len(stated) == len(expected), stated
