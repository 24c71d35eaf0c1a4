"""Draw the figures of the report with matplotlib, as SVG files in the document's font and size.

The text stays text: Typst sets it in the document's own font. Each figure is readable in black and
white: a line style or a number says what the colour says.

    python report/figures.py      takes the README's pictures out of the executed notebook
"""
import base64
import contextlib
import io
import json
import os
import sys

import matplotlib.style
from matplotlib.figure import Figure

HOME = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.dirname(HOME)
sys.path[:0] = [PROJECT, os.path.join(PROJECT, 'leaderboard')]

from checkpoint import replacing      # noqa: E402
from network import CLASS_NAMES      # noqa: E402

WIDTH = 482 / 72                        # inches: the width of the document's text
FONT = 'Libertinus Serif'               # Typst brings it
MEASURED = 'STIXGeneral'                # matplotlib brings it; its letters are about as wide
BLUE, PALE, ORANGE = '#0072B2', '#9CC3E0', '#D55E00'      # safe for the colour-blind
STYLE = {'font.family': MEASURED, 'font.size': 9, 'axes.titlesize': 9, 'svg.fonttype': 'none',
         'svg.hashsalt': 'report', 'axes.spines.top': False, 'axes.spines.right': False,
         'axes.linewidth': 0.6, 'axes.axisbelow': True}


@contextlib.contextmanager
def drawing(path, height):
    """Yield a figure of the text's width and `height` inches, in our style; then write it.

    The user's own matplotlibrc has no say.
    """
    text = io.StringIO()
    with matplotlib.style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(WIDTH, height))
        yield figure
        figure.savefig(text, format='svg', metadata={'Date': None})
    with replacing(path) as file:
        file.write(text.getvalue().replace(MEASURED, FONT).encode('utf-8'))


def ranking(rows, path):
    """Bars of the gains `rows`, from top to bottom, each with its interval and its number."""
    height = 0.5 + 0.24 * len(rows)
    with drawing(path, height) as figure:
        axes = figure.add_axes([0.42, 0.43 / height, 0.52, 0.98 - 0.43 / height])
        for place, row in enumerate(rows):
            gain, margin = row['difference'], row['margin']
            axes.barh(place, gain, xerr=margin, height=0.62, color=PALE, edgecolor=BLUE,
                      linewidth=0.6, error_kw={'capsize': 2, 'elinewidth': 1})
            axes.text(gain + margin + 0.05, place, f'{gain:+.2f}', va='center')
        axes.set_yticks(range(len(rows)))
        axes.set_yticklabels([row['label'] for row in rows])
        axes.invert_yaxis()
        axes.tick_params(axis='y', length=0)
        axes.set_xlabel('gain in balanced accuracy, in points')


def curves(curve, path):
    """Loss and accuracy of a training against its epochs, on training and on validation rows."""
    with drawing(path, 2.1) as figure:
        panels = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.05, right=0.99, bottom=0.19, top=0.91, wspace=0.14)
        for axes, name, title in zip(panels, ('loss', 'accuracy'), ('mean loss', 'accuracy in %')):
            axes.plot(curve.epoch, curve[f'train_{name}'], '--', color=ORANGE,
                      label='training, augmented images')
            axes.plot(curve.epoch, curve[f'validation_{name}'], color=BLUE, label='validation')
            axes.set_title(title, loc='left')
            axes.set_xlabel('epoch')
            axes.grid(axis='y', color='#DDDDDD', linewidth=0.5)
            axes.legend(facecolor='white', edgecolor='none', framealpha=1)


def pairs(chosen, counts, data, label, predicted, path, faces=4):
    """The first images that were read as another class: a cell for each of `chosen` (true, read).

    counts[true, read] is the number of such rows.
    """
    columns = 4
    lines = -(-len(chosen) // columns)
    with drawing(path, 0.72 * lines) as figure:
        for place, (true, read) in enumerate(chosen):
            left = place % columns / columns
            bottom = 1 - (place // columns + 1) / lines
            figure.text(left, bottom + 0.75 / lines, f'true {CLASS_NAMES[true]}, read as '
                        f'{CLASS_NAMES[read]}: {counts[true, read]} of {counts[true].sum()}')
            rows = data[(label == true) & (predicted == read)][:faces]
            images = rows.reshape(-1, 28, 28).transpose(0, 2, 1)      # they are stored transposed
            for number, image in enumerate(images):
                axes = figure.add_axes([left + number * 0.057, bottom + 0.1 / lines,
                                        0.054, 0.56 / lines])
                axes.imshow(image, cmap='gray_r', vmin=0, vmax=255)
                axes.tick_params(length=0, labelbottom=False, labelleft=False)
                for spine in axes.spines.values():
                    spine.set(visible=True, linewidth=0.4)


def notebook_pictures(path):
    """{NAME: bytes of a PNG} of the notebook's cells with {"picture": NAME} in their metadata."""
    with open(path, encoding='utf-8') as file:
        cells = json.load(file)['cells']
    pictures = {}
    for cell in cells:
        for output in cell.get('outputs', []):
            if 'picture' in cell['metadata'] and 'image/png' in output.get('data', {}):
                text = ''.join(output['data']['image/png'])
                pictures[cell['metadata']['picture']] = base64.b64decode(text)
    return pictures


if __name__ == '__main__':
    found = notebook_pictures(os.path.join(PROJECT, 'Lab1_studentid.ipynb'))
    for name, content in found.items():
        with replacing(os.path.join(HOME, f'{name}.png')) as file:
            file.write(content)
