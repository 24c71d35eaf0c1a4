"""The README's example prints what it says."""
import doctest
import os


def test_readme_example():
    readme = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'README.md')
    failed, tried = doctest.testfile(readme, module_relative=False)
    assert tried >= 5 and not failed, '%d of %d examples failed' % (failed, tried)
