"""Lays out pages with nothing but matplotlib: blocks of text, mathematics, tables and figures flow down A4 pages.

    document = Document('the line at every page\'s foot')
    for block in [Heading('One'), Paragraph('Let $a_j$ be *the* sum.'), Equation('$a_j = w_{j0}$')]:
        document.add(block)
    document.save(file, {'Title': 'Report'})

Text is wrapped by the width that matplotlib measures for it. All lengths are in points.
"""
import collections
import functools
import re

import numpy as np
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure as Page
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.mathtext import MathTextParser
from matplotlib.textpath import text_to_path

PAGE = (210 / 25.4 * 72, 297 / 25.4 * 72)
LEFT, TOP, BOTTOM = 70, 58, 62
WIDTH = PAGE[0] - 2 * LEFT
SIZE, LEAD = 10.5, 13.6       # the text's letters, from line to line
SMALL, ROW = 8.8, 12.2        # the letters of captions and tables, from row to row of a table
BLUE, RED, GREY = '#0072B2', '#D55E00', '#777777'      # Okabe and Ito: safe for colour-blind readers
STYLE = {'font.family': 'STIXGeneral', 'mathtext.fontset': 'stix', 'pdf.fonttype': 42, 'font.size': SMALL,
         'axes.linewidth': 0.5, 'axes.spines.top': False, 'axes.spines.right': False, 'xtick.major.width': 0.5,
         'ytick.major.width': 0.5, 'xtick.labelsize': 8, 'ytick.labelsize': 8}

Heading = collections.namedtuple('Heading', 'text')
Paragraph = collections.namedtuple('Paragraph', 'text')           # with $mathematics$, **bold** and *italic* words
Note = collections.namedtuple('Note', 'text')                     # a paragraph in small letters
Equation = collections.namedtuple('Equation', 'text')             # numbered in their order
# columns: (title, width, 'left' or 'right'); rows of cells, None for a thin rule; chart: None or a function of the axes
# over the last column, where row i lies between y = i and i + 1
Table = collections.namedtuple('Table', 'caption columns rows chart')
# draw(axes): axes(x, y, width, height) adds axes to the figure's box, in fractions of it
Figure = collections.namedtuple('Figure', 'caption height draw')


@functools.lru_cache(None)
def font(size, style):
    return FontProperties(family='STIXGeneral', size=size, weight='bold' if style == 'bold' else 'normal',
                          style='italic' if style == 'italic' else 'normal')


@functools.lru_cache(None)
def extent(text, size, style='normal'):
    """(width, height, depth below the line) of a text, or of mathematics between dollar signs."""
    return tuple(float(value) for value in text_to_path.get_text_width_height_descent(
        text, font(size, style), '$' in text))


@functools.lru_cache(None)
def lift(text, size):
    """How far above the line the PDF's renderer puts mathematics that begins with a letter: it rounds heights up."""
    return MathTextParser('path').parse(text, 72, font(size, 'normal'))[3][0][4]


def wrap(text, width, size):
    """The lines of a paragraph; a line is a list of words, a word a list of (text, style, its width).

    They are broken where the squares of the spaces left at their ends add up to the least: the best for the whole
    paragraph, not for each line, so that justified lines come out evenly spaced.
    """
    words, style, styles, glued = [], 'normal', {'*': 'italic', '**': 'bold'}, False
    for part in re.split(r'(\*\*|\*)', text):
        if part in styles:
            style = styles[part] if style == 'normal' else 'normal'
            continue
        for piece in re.findall(r'\s+|(?:\$[^$]*\$|[^\s$])+', part):
            if piece.isspace():
                glued = False
                continue
            piece = piece if '$' in piece else piece.replace("'", '\N{RIGHT SINGLE QUOTATION MARK}')
            words += [] if glued else [[]]
            words[-1].append((piece, style, extent(piece, size, style)[0]))
            glued = True
    widths = [sum(run[2] for run in word) for word in words]
    best = [(0.0, 0)]      # for the first 0, 1, 2, ... words: (cost, first word of the last line)
    for end in range(1, len(words) + 1):
        length, choices = -0.25 * size, []
        for start in range(end - 1, -1, -1):
            length += widths[start] + 0.25 * size
            if length > width and choices:
                break
            choices.append((best[start][0] + (0 if end == len(words) else (width - length) ** 2), start))
        best.append(min(choices))
    lines, end = [], len(words)
    while end:
        lines.insert(0, words[best[end][1]:end])
        end = best[end][1]
    return lines


class Document(object):
    """Puts blocks on pages, one after the other; a table or figure may wait for the top of the next page."""

    def __init__(self, foot):
        self.foot, self.pages, self.waiting, self.equations = foot, [], [], 0
        self.new_page()

    def add(self, block):
        if isinstance(block, (Table, Figure)):
            self.waiting.append(block)
            self.place_waiting()
        else:
            getattr(self, type(block).__name__.lower())(block.text)

    def save(self, file, metadata):
        while self.waiting:
            self.new_page()
        with PdfPages(file, metadata=metadata) as pdf:
            for number, self.page in enumerate(self.pages, 1):
                self.text(LEFT, BOTTOM - 30, self.foot, SMALL, color=GREY)
                self.text(LEFT + WIDTH, BOTTOM - 30, '%d / %d' % (number, len(self.pages)), SMALL, 'right', color=GREY)
                pdf.savefig(self.page, dpi=220)

    def new_page(self):
        self.page = Page(figsize=(PAGE[0] / 72, PAGE[1] / 72), dpi=72)
        self.pages.append(self.page)
        self.y = PAGE[1] - TOP      # the upper edge of what comes next
        self.place_waiting()

    def place_waiting(self):
        while self.waiting:
            height = self.float_height(self.waiting[0])
            if self.y - height < BOTTOM and self.y < PAGE[1] - TOP:
                break
            self.float(self.waiting.pop(0))

    def text(self, x, y, text, size, align='left', style='normal', color='black'):
        self.page.text(x / PAGE[0], y / PAGE[1], text, ha=align, va='baseline', color=color,
                       fontproperties=font(size, style))

    def rule(self, y, width, color='black'):
        self.page.add_artist(Line2D([LEFT / PAGE[0], 1 - LEFT / PAGE[0]], [y / PAGE[1]] * 2, linewidth=width,
                                    color=color))

    def axes(self, x, y, width, height):
        return self.page.add_axes([x / PAGE[0], y / PAGE[1], width / PAGE[0], height / PAGE[1]])

    def title(self, title, subtitle, byline):
        for text, size, style in ((title, 20, 'bold'), (subtitle, 12, 'italic'), (byline, SIZE, 'normal')):
            self.y -= 20
            size *= min(1, WIDTH / extent(text, size, style)[0])
            self.text(PAGE[0] / 2, self.y, text, size, 'center', style)
        self.rule(self.y - 10, 0.5)
        self.y -= 14

    def heading(self, text):
        if self.y - 24 - 3 * LEAD < BOTTOM:
            self.new_page()
        self.y -= 24
        self.text(LEFT, self.y, text, 12.5, style='bold')
        self.y -= 4

    def note(self, text):
        self.paragraph(text, SMALL, 11, -0.5)

    def paragraph(self, text, size=SIZE, lead=LEAD, space=3):
        lines = wrap(text, WIDTH, size)
        fit = int((self.y - BOTTOM - 2) // lead)
        if fit < len(lines):      # no single line of a paragraph on either page
            fit = min(fit, len(lines) - 2) if len(lines) > 3 and fit > 1 else 0
        self.y -= 2
        self.lines(lines[:fit], lead, size)
        if fit < len(lines):
            self.new_page()
            self.lines(lines[fit:], lead, size)
        self.y -= space

    def lines(self, lines, lead, size):
        """Justified, but for a paragraph's last line and for a line that would have too wide spaces."""
        for line in lines:
            self.y -= lead
            gap = (WIDTH - sum(run[2] for word in line for run in word)) / max(1, len(line) - 1)
            gap = gap if gap < 0.8 * size and line is not lines[-1] else min(gap, 0.25 * size)
            x = LEFT
            for word in line:
                for text, style, width in word:
                    self.text(x, self.y - (lift(text, size) if '$' in text else 0), text, size, style=style)
                    x += width
                x += gap

    def equation(self, text):
        width, height, depth = extent(text, SIZE + 0.5)
        if self.y - height - 10 < BOTTOM:
            self.new_page()
        self.y -= height + 9
        self.equations += 1
        self.text(PAGE[0] / 2, self.y + depth, text, SIZE + 0.5, 'center')
        self.text(LEFT + WIDTH, self.y + depth, '(%d)' % self.equations, SIZE, 'right')
        self.y -= 1

    def float_height(self, block):
        body = block.height if isinstance(block, Figure) else 18 + ROW * sum(row is not None for row in block.rows)
        return body + 11 * len(wrap(block.caption, WIDTH, SMALL)) + 20

    def float(self, block):
        self.y -= 8
        if isinstance(block, Figure):
            self.y -= block.height
            block.draw(lambda x, y, width, height: self.axes(
                LEFT + x * WIDTH, self.y + y * block.height, width * WIDTH, height * block.height))
        self.lines(wrap(block.caption, WIDTH, SMALL), 11, SMALL)
        if isinstance(block, Table):
            self.table(block)
        self.y -= 8

    def table(self, block):
        lefts = np.cumsum([LEFT] + [width + 8 for _, width, _ in block.columns])

        def cells(row, style):
            self.y -= ROW
            for left, (_, width, align), cell in zip(lefts, block.columns, row):
                size = min(SMALL, SMALL * width / max(1, extent(cell, SMALL, style)[0]))      # never beyond its column
                self.text(left + (width if align == 'right' else 0), self.y + 3.2, cell, size, align, style)

        self.y -= 5
        self.rule(self.y, 0.8)
        cells([title for title, _, _ in block.columns], 'italic')
        self.rule(self.y, 0.5)
        top = self.y
        for row in block.rows:
            if row is None:
                self.rule(self.y, 0.3, GREY)
            else:
                cells(row, 'normal')
        if block.chart:
            axes = self.axes(lefts[-2], self.y, block.columns[-1][1], top - self.y)
            axes.set(ylim=((top - self.y) / ROW, 0), yticks=[])
            axes.patch.set_visible(False)
            block.chart(axes)
            self.y -= 13
        self.rule(self.y, 0.8)
