"""Draw the figures of the report with matplotlib, in the document's font, as SVG files.

The text stays text: Typst sets it in the document's own font and size. Each figure is readable in
black and white, because line style, shape or a number says what the colour says.
"""
import contextlib
import io

import matplotlib
from matplotlib.figure import Figure

from network import CLASS_NAMES, replacing

WIDTH = 482 / 72                        # inches: the width of the document's text
FONT = 'Libertinus Serif'               # Typst brings it
MEASURED = 'STIXGeneral'                # matplotlib brings it; its letters are about as wide
BLUE, ORANGE, GREY = '#0072B2', '#D55E00', '#555555'      # safe for the colour-blind
STYLE = {'font.family': MEASURED, 'font.size': 9, 'axes.titlesize': 9, 'axes.labelsize': 9,
         'xtick.labelsize': 9, 'ytick.labelsize': 9, 'legend.fontsize': 9, 'svg.fonttype': 'none',
         'svg.hashsalt': 'report', 'axes.spines.top': False, 'axes.spines.right': False,
         'axes.linewidth': 0.6, 'lines.linewidth': 1.4, 'axes.axisbelow': True}


@contextlib.contextmanager
def drawing(path, height):
    """Yield a figure of the text's width and `height` inches, in our style; then write it.

    The user's own matplotlibrc has no say: the defaults are set first.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(WIDTH, height))
        yield figure
        text = io.StringIO()
        figure.savefig(text, format='svg', metadata={'Date': None})
    with replacing(path) as file:
        file.write(text.getvalue().replace(MEASURED, FONT).encode('utf-8'))


def signed(value):
    """1.2345 -> '+1.23', with a minus sign that is as wide as the plus."""
    return f'{value:+.2f}'.replace('-', '\u2212')


def ranking(rows, path):
    """Bars of what each factor brought, the greatest first, with the interval of each."""
    height = 0.5 + 0.24 * len(rows)
    with drawing(path, height) as figure:
        axes = figure.add_axes([0.4, 0.43 / height, 0.58, 0.98 - 0.43 / height])
        for place, row in enumerate(rows):
            axes.barh(place, row['difference'], height=0.62, color='#9CC3E0', edgecolor=BLUE,
                      linewidth=0.6, xerr=row['half'], error_kw={'capsize': 2, 'elinewidth': 1})
            axes.text(row['difference'] + row['half'] + 0.05, place, signed(row['difference']),
                      va='center')
        axes.set_yticks(range(len(rows)))
        axes.set_yticklabels([f'{row["factor"]}: {row["setting"]}' for row in rows])
        axes.invert_yaxis()
        axes.tick_params(axis='y', length=0)
        axes.set_xlabel('gain in balanced accuracy, in points')


def curves(curve, path):
    """Loss and accuracy of the final network against the epoch, training and validation."""
    with drawing(path, 2.1) as figure:
        left, right = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.06, right=0.98, bottom=0.19, top=0.91, wspace=0.16)
        for axes, name, title in ((left, 'loss', 'mean loss'),
                                  (right, 'accuracy', 'accuracy in %')):
            axes.plot(curve.epoch, curve[f'train_{name}'], '--', color=ORANGE,
                      label='training, augmented images')
            axes.plot(curve.epoch, curve[f'validation_{name}'], '-', color=BLUE,
                      label='validation')
            axes.set_title(title, loc='left')
            axes.set_xlabel('epoch')
            axes.grid(axis='y', color='#DDDDDD', linewidth=0.5)
            axes.legend(frameon=False)


def confusion(counts, classes, path):
    """Table of how often each of `classes` was read as each: counts, shaded by their share."""
    names = [CLASS_NAMES[index] for index in classes]
    rows = counts.sum(axis=1)
    with drawing(path, 4.2) as figure:
        axes = figure.add_axes([0.06, 0.02, 0.92, 0.88])
        shares = counts[classes][:, classes] / rows[classes][:, None].clip(1)
        axes.imshow(shares ** 0.5, cmap='Greys', vmin=0, vmax=1.6, aspect='auto',
                    extent=(-0.5, len(names) - 0.5, len(names) - 0.5, -0.5))
        for row, true in enumerate(classes):
            for column, read in enumerate(classes):
                if counts[true, read]:
                    axes.text(column, row, f'{counts[true, read]}', ha='center', va='center',
                              fontweight='bold' if row == column else 'normal')
            shown = counts[true, classes].sum()
            axes.text(len(names) + 0.2, row, f'{rows[true] - shown}', ha='center', va='center')
            axes.text(len(names) + 1.6, row, f'{rows[true]}', ha='center', va='center')
        axes.set_xlim(-0.5, len(names) + 2.2)
        axes.set_xticks([*range(len(names)), len(names) + 0.2, len(names) + 1.6])
        axes.set_xticklabels([*names, 'others', 'all'])
        axes.set_yticks(range(len(names)))
        axes.set_yticklabels(names)
        axes.set_ylabel('true class')
        axes.set_xlabel('read as')
        axes.xaxis.set_label_position('top')
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        for spine in axes.spines.values():
            spine.set_visible(False)


def pairs(counts, chosen, data, label, predicted, path, faces=3):
    """Rows of characters that were read as another: for each pair, both ways."""
    with drawing(path, 2.05) as figure:
        for column, pair in enumerate(chosen):
            for row, (true, read) in enumerate((pair, pair[::-1])):
                left, bottom = column / len(chosen), 0.5 - 0.5 * row
                figure.text(left, bottom + 0.40, f'true {CLASS_NAMES[true]}, read as '
                            f'{CLASS_NAMES[read]}: {counts[true, read]} of {counts[true].sum()}')
                found = data[(label == true) & (predicted == read)][:faces]
                images = found.reshape(-1, 28, 28).transpose(0, 2, 1)      # stored transposed
                for number, image in enumerate(images):
                    width = 0.92 / len(chosen) / faces
                    axes = figure.add_axes([left + number * width, bottom + 0.06,
                                            0.94 * width, 0.32])
                    axes.imshow(image, cmap='gray_r', vmin=0, vmax=255)
                    axes.set_xticks([])
                    axes.set_yticks([])
                    for spine in axes.spines.values():
                        spine.set_visible(True)
                        spine.set_linewidth(0.4)
