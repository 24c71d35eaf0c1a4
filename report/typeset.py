"""Typesets the lab's report as a PDF.

    python report/typeset.py --name "A. Student" --id 311551001 --date 2022-10-06

No result is typed in here: facts.py reads or measures every accuracy and every difference, and a sentence that explains
a difference is printed only where the numbers show it. layout.py puts the blocks on pages.
"""
import argparse
import collections
import datetime
import math
import os
import sys

import numpy as np
from matplotlib import rc_context
from matplotlib.ticker import MultipleLocator

HOME = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HOME)

from facts import ALIKE, confused_pairs, confusion, gather, merged      # noqa: E402
from layout import (BLUE, GREY, RED, STYLE, WIDTH, Document, Equation, Figure, Heading, Note, Paragraph,
                    Table)      # noqa: E402
from experiments import BASELINE, GENTLE, STRONG      # noqa: E402
from gradient_check import STEP, TOLERANCE      # noqa: E402
from layer import Augment, Conv2d, Flatten, FullyConnected, Reshape      # noqa: E402
from network import (CHARACTER_TRAINING, CHARACTER_VIEWS, CLASS_NAMES, character_network, replacing,
                     score)      # noqa: E402

# (factor, setting, +1 or -1): why; printed where the experiments show this setting clearly better or worse
REASONS = {
    ('loss', 'cross-entropy, smoothing 0.1', 1): 'a target below one stops the weights from growing for a certainty '
                                                 'that ambiguous characters do not allow',
    ('loss', 'squared error', -1): 'it also pushes back outputs that are right by more than the target asks for',
    ('network', '784-60-47', -1): 'sixty units are too few features to tell 47 classes apart',
    ('network', '784-1024-512-47', 1): 'more units hold more of the strokes that occur',
    ('network', '784-512-512-256-256-47', 1): 'more layers make shapes out of strokes',
    ('activation', 'Tanh', -1): r"it saturates: $h′(a)$ is near zero for large sums of either sign",
    ('activation', 'Sigmoid', -1): r"$h′(a) \leq 1/4$ makes $\delta$ shrink from layer to layer",
    ('initial weights', '0.01 N(0, 1), as in the template', -1):
        'a layer of 784 such weights passes on about a fifth of the signal that a variance of $2/D$ would, and the '
        'first steps are spent on growing',
    ('input', 'standardised', 1): "with inputs around zero the weights of a unit need not all grow in one direction",
    ('input', 'raw 0..255, lr 0.0001', -1): 'inputs 255 times as large allow only a tiny rate, at which biases and '
                                            'upper layers hardly move',
    ('batch size', '32', 1): 'the same epochs have four times as many steps',
    ('batch size', '32', -1): 'the gradient of fewer rows is noisier, at the same rate',
    ('batch size', '512', -1): 'the same epochs have a quarter of the steps',
    ('learning rate', '0.01', -1): 'small steps do not get far in so few epochs',
    ('learning rate', '0.3', -1): 'large steps overshoot until the rate has fallen',
    ('schedule', 'constant 0.1', -1): 'the noise of the steps settles only when the rate falls',
    ('momentum', 'none', -1): r'without the sum $1 + \mu + \mu^2 + \ldots = 10$ of past gradients steps are a tenth '
                              'as long',
    ('weight decay', '0', -1): 'nothing holds back weights that serve single rows',
    ('weight decay', '0.002', -1): 'it keeps the weights smaller than the classes need',
    ('batch norm', 'after each sum', 1): 'each layer gets sums of mean 0 and variance 1 to learn from, whatever the '
                                         'layers below it do',
    ('dropout', '0.1', 1): 'units cannot rely on each other to recognise a training row',
    ('dropout', '0.3', -1): 'in so few epochs there is little overfitting to cure, and a thinned network learns more '
                            'slowly',
    ('augmentation', 'gentle', 1): 'no image comes twice in the same shape, so that it is harder to learn by heart',
    ('augmentation', 'gentle', -1): 'the variants ask for more epochs than these few',
    ('augmentation', 'strong', -1): 'a moved stroke meets other weights, and learning all its places takes longer',
    ('averaging', 'of the weights, 0.999', 1): 'the mean over many steps cancels their noise',
    ('prediction', 'for even classes', 1): 'the training rows are uneven, see Section 6',
    ('prediction', 'mean of two networks', 1): 'the two err on different rows, where the mean often sides with the '
                                               'one that is right',
    ('convolution', '16-32-64 channels', 1): 'one detector of a stroke serves every place of the image',
    ('best fully connected', '784-1024-1024-1024-47, many aids, 30 epochs', 1):
        'several small gains add up, of width, depth, batch norm, dropout 0.2, gentle augmentation, smoothing, '
        'averaging, even classes and views',
    ('epochs', '15, as in the notebook', 1): 'the training loss was still falling',
    ('final network', 'character_network(), even classes, 8 views', 1): 'see below',
}

# (factor, setting): its name in Table 1
NETWORKS = collections.OrderedDict([
    (('epochs', '15, as in the notebook'), 'baseline, 15 epochs as in the notebook'),
    (('prediction', 'for even classes'), 'baseline, for even classes'),
    (('best fully connected', '784-1024-1024-1024-47, many aids, 30 epochs'),
     'best fully connected: 784-1024-1024-1024-47')])


def signed(points):
    return ('%+.2f' % (round(points, 2) + 0.0)).replace('-', '\N{MINUS SIGN}')


def percent(value):
    return '%.1f%%' % value


def verdict(effect):
    """What a setting brings, and why where that is known; the reason is for the sign that the numbers show."""
    if effect.clear is None:
        return '*%s*: %s in a single run, which shows no spread' % (effect.setting, signed(effect.change))
    if not effect.clear:
        return '*%s*: %s, overlaps' % (effect.setting, signed(effect.change))
    why = REASONS.get((effect.factor, effect.setting, effect.clear))
    return '*%s*: %s%s' % (effect.setting, signed(effect.change), ' (%s)' % why if why else '')


def by_factor(effects):
    """[(factor, its settings' effects), ...] without the baseline, in the order of the experiments."""
    factors = collections.OrderedDict()
    for effect in effects:
        if effect.factor != 'baseline':
            factors.setdefault(effect.factor, []).append(effect)
    return list(factors.items())


def factor_sentences(effects):
    for factor, settings in by_factor(effects):
        yield Paragraph('**%s.** %s.' % (factor[0].upper() + factor[1:], '; '.join(map(verdict, settings))))


def abstract(facts):
    base, final = facts.effects[0], list(facts.scores.values())[-1]
    wrong = facts.predicted != facts.validation[1]
    alike = wrong & (merged(facts.predicted) == merged(facts.validation[1]))
    return ('**Question.** How well can a neural network whose forward and backward passes are all written by hand in '
            'NumPy read handwritten characters of 47 classes? **Result.** The fully connected baseline classifies %s '
            'of the validation rows correctly after %d epochs (balanced over the classes: %s), the final convolutional '
            'network %s (balanced: %s). Of the mistakes that remain, %.0f%% are between characters of the same shape, '
            'such as 0 and O or 1, I and L.' % (
                percent(base.validation), BASELINE['epochs'], percent(base.mean), percent(final.accuracy),
                percent(final.balanced_accuracy), 100 * alike.sum() / max(1, wrong.sum())))


def networks_table(facts):
    found = {(effect.factor, effect.setting): effect for effect in facts.effects}
    rows = [['baseline: 784-512-256-47, ReLU', facts.effects[0]]]
    rows += [[name, found[key]] for key, name in NETWORKS.items() if key in found]
    rows = [[name, '{:,}'.format(effect.parameters), '%.1f' % (effect.seconds / 60), '%.2f' % effect.validation,
             '%.2f' % effect.mean] for name, effect in rows]
    for index, (name, result) in enumerate(facts.scores.items()):
        rows.append(['final: five convolutions, ' + name] + (
            ['{:,}'.format(facts.parameters), '%.1f' % (facts.final.seconds.sum() / 60)] if not index else ['', '']) + [
            '%.2f' % result.accuracy, '%.2f' % result.balanced_accuracy])
    return Table('**Table 1.** The networks on the {:,} validation rows: plain accuracy and balanced accuracy, the '
                 'mean of the accuracies of the classes, in percent; the mean over the seeds, for the final network '
                 'one run. Minutes of training: of one processor, for the final network of the clock with two.'.format(
                     len(facts.predicted)),
                 [('network', 234, 'left'), ('parameters', 52, 'right'), ('minutes', 40, 'right'),
                  ('validation', 45, 'right'), ('balanced', 45, 'right')], rows, None)


def ablation_table(facts):
    effects, rows, shown, factor = facts.effects, [], [], None
    for effect in effects:
        rows += [None] if rows and effect.factor != factor else []
        rows.append(['' if effect.factor == factor else effect.factor, effect.setting, '%.2f' % effect.mean,
                     signed(effect.change) if effect.factor != 'baseline' else '', ''])
        factor = effect.factor
    base, floor = effects[0], -3.0

    def chart(axes):
        axes.axvspan(base.low - base.mean, base.high - base.mean, color='#CCCCCC', linewidth=0)
        axes.xaxis.set_major_locator(MultipleLocator(1))
        axes.grid(axis='x', linewidth=0.3, color='#DDDDDD')
        for row, effect in enumerate(effects):
            colour = {1: BLUE, -1: RED}.get(effect.clear, GREY)
            axes.plot([max(floor, effect.low - base.mean), max(floor, effect.high - base.mean)], [row + 0.5] * 2,
                      color=colour, linewidth=1.2)
            axes.plot(max(floor, effect.change), row + 0.5, '<' if effect.change < floor else 'o', color=colour,
                      markersize=4, markerfacecolor=colour if effect.clear else 'white', markeredgewidth=0.9)
        axes.set_xlim(max(floor, min(effect.low for effect in effects) - base.mean) - 0.4,
                      max(effect.high for effect in effects) - base.mean + 0.4)
        for side in ('left', 'top', 'right'):
            axes.spines[side].set_visible(False)
        axes.tick_params(axis='x', labelsize=7, length=2, pad=1)

    return Table('**Table 2.** One factor changed at a time: balanced validation accuracy in percent, mean over %d '
                 'seed%s, and the difference to the baseline in points. Dot: mean; line: all seeds; grey band: the '
                 'seeds of the baseline. Filled blue or red: every run is above or below every run of the baseline; '
                 'hollow: within the spread; arrowhead: beyond the axis.' % (facts.seeds, 's' * (facts.seeds > 1)),
                 [('factor', 80, 'left'), ('setting', 176, 'left'), ('balanced', 36, 'right'),
                  ('points', 34, 'right'), ('', WIDTH - 366, 'left')], rows, chart)


def curves_figure(facts):
    def draw(axes):
        for left, title, quantity in ((0.06, 'mean loss', 'loss'), (0.57, 'accuracy in %', 'accuracy')):
            panel = axes(left, 0.2, 0.42, 0.7)
            for name, colour, curve in (('baseline', RED, facts.curve), ('final network', BLUE, facts.final)):
                for part, line in (('training', '--'), ('validation', '-')):
                    panel.plot(curve.epoch, curve['%s_%s' % (part.replace('ing', ''), quantity)], line, color=colour,
                               linewidth=1.1, label='%s, %s' % (name, part))
            panel.set_title(title, fontsize=9, loc='left')
            panel.set_xlabel('epoch', fontsize=8, labelpad=1)
        panel.legend(fontsize=7.5, frameon=False, loc='lower right')

    return Figure('**Figure 1.** Learning curves of the baseline (%d epochs) and of the final network (%d epochs). The '
                  'loss of the final network has smoothed targets, so the two losses cannot be compared; it is trained '
                  'on varied images with units left out, so its training accuracy is that of a harder task. Training: '
                  'mean over an epoch while the weights change; validation: after the epoch, for the final network '
                  'with the average of its weights.' % (
                      len(facts.curve), len(facts.final)), 112, draw)


def upright(rows):
    """(N, 784) -> (N, 28, 28), as a reader sees them: the files hold the images transposed."""
    return rows.reshape(-1, 28, 28).transpose(0, 2, 1)


def picture(axes, image, **options):
    axes.imshow(image, **dict({'cmap': 'gray_r', 'vmin': 0, 'vmax': 255}, **options))
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.3)


def confusion_figure(facts):
    shares = confusion(facts)
    np.fill_diagonal(shares, 0)

    def draw(axes):
        panel = axes(0.035, 0.065, 0.58, 0.92)
        panel.imshow(shares, cmap='Blues', vmin=0, vmax=30, aspect='auto')
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_ticks(range(47))
            axis.set_ticklabels(CLASS_NAMES)
            axis.set_tick_params(length=0, pad=1.5, labelsize=5.4)
        panel.set_xlabel('predicted', fontsize=8, labelpad=1)
        panel.set_ylabel('true', fontsize=8, labelpad=2)
        for spine in panel.spines.values():
            spine.set_visible(True)
        for index, image in enumerate(upright(facts.filters)):
            row, column = divmod(index, 4)
            limit = np.abs(image).max()
            picture(axes(0.655 + 0.0865 * column, 0.98 - 0.1395 * (row + 1), 0.082, 0.132), image, cmap='PuOr_r',
                    vmin=-limit, vmax=limit)

    return Figure('**Figure 2.** Left: what the final network takes for what, in percent of the true class, the '
                  'diagonal left out; 30% and more are darkest. Right: the units of the first layer of the baseline '
                  'with the largest weights; orange: ink excites the unit, purple: ink inhibits it.', 300, draw)


def pairs_figure(facts):
    shares, (data, label) = confusion(facts), facts.validation

    def draw(axes):
        for column, pair in enumerate(confused_pairs(facts)):
            for row, (true, read) in enumerate((pair, pair[::-1])):
                left, bottom = column * 0.169, 0.5 * (1 - row)
                panel = axes(left, bottom, 0.155, 0.5)
                panel.axis('off')
                panel.text(0, 0.89, '%s read as %s: %.0f%%' % (
                    CLASS_NAMES[true], CLASS_NAMES[read], shares[true, read]), fontsize=8)
                for index, image in enumerate(upright(data[(label == true) & (facts.predicted == read)][:2])):
                    picture(axes(left + 0.078 * index, bottom + 0.08, 0.074, 0.33), image)

    return Figure('**Figure 3.** The six pairs that the final network confuses most, in percent of the true class, '
                  'with the first examples of each mistake among the validation rows.', 105, draw)


def power_of_ten(value):
    digits, exponent = ('%.0e' % value).split('e')
    return '$%s10^{%d}$' % ('' if digits == '1' else digits + r' \times ', int(exponent))


def derivation(facts):
    return [
        Heading('1  Back propagation'),
        Paragraph('A hidden layer turns its inputs $x_i$ into weighted sums $a_j$ and activations $z_j$; the output '
                  'layer does the same with the $z_j$, and the loss $E_n$ of row $n$ compares its outputs $y_k$ with '
                  'the targets $t_k$:'),
        Equation(r"$a_j = \sum_{i=1}^{D}\, w_{ji}^{(1)} x_i + w_{j0}^{(1)}, \quad z_j = h(a_j), \quad j = 1, \ldots, "
                 r"M; \qquad a_k = \sum_{j=1}^{M}\, w_{kj}^{(2)} z_j + w_{k0}^{(2)}, \quad k = 1, \ldots, K.$"),
        Paragraph(r'A weight acts on $E_n$ only through the sum that it enters. With $\delta = \partial E_n / \partial '
                  'a$ for every sum, the chain rule gives each gradient as a product of what comes back, $\\delta$, '
                  'and what went in:'),
        Equation(r'$\dfrac{\partial E_n}{\partial w_{kj}^{(2)}} = \dfrac{\partial E_n}{\partial a_k} \, '
                 r'\dfrac{\partial a_k}{\partial w_{kj}^{(2)}} = \delta_k z_j, \qquad '
                 r'\dfrac{\partial E_n}{\partial w_{ji}^{(1)}} = \dfrac{\partial E_n}{\partial a_j} \, '
                 r'\dfrac{\partial a_j}{\partial w_{ji}^{(1)}} = \delta_j z_i \quad (z_i = x_i), \qquad '
                 r'\dfrac{\partial E_n}{\partial w_{j0}^{(1)}} = \delta_j.$'),
        Paragraph('A hidden sum $a_j$ acts through all sums $a_k$ of the next layer, so their $\\delta_k$ add up:'),
        Equation(r"$\delta_j = \sum_{k}\; \dfrac{\partial E_n}{\partial a_k} \, \dfrac{\partial a_k}{\partial a_j} = "
                 r"h′(a_j) \sum_{k}\; w_{kj} \delta_k .$"),
        Paragraph('This is back propagation: forward for the $z$, backward for the $\\delta$, layer by layer. The last '
                  'layer starts it. **Softmax with cross-entropy,** for targets that sum to one, is'),
        Equation(r'$y_k = \dfrac{e^{a_k}}{\sum_m\; e^{a_m}}, \qquad E_n = -\sum_k\; t_k \ln\, y_k = '
                 r'\ln\, \sum_m\; e^{a_m} - \sum_k\; t_k a_k, \qquad \delta_k = \dfrac{\partial E_n}{\partial a_k} = '
                 r'\dfrac{e^{a_k}}{\sum_m\; e^{a_m}} - t_k = y_k - t_k,$'),
        Paragraph("and the handout's **squared error** with linear outputs is"),
        Equation(r'$y_k = a_k, \qquad E_n = \dfrac{1}{2} \,\sum_{k=1}^{K}\, (y_{nk} - t_{nk})^2, \qquad '
                 r'\delta_k = y_{nk} - t_{nk} .$'),
        Paragraph('The difference $y_k - t_k$ is the same, the $y_k$ are not. The squared error pushes a linear output '
                  'back that is right by more than the target asks for; with softmax and cross-entropy no output is '
                  'too right, unless the targets are smoothed. For a batch with its rows in '
                  '$X$ and its $\\delta$, divided by $N$ for the mean loss, in $\\Delta$, the layer is $A = XW + b$, '
                  'and its backward pass is three products:'),
        Equation(r'$\dfrac{\partial E}{\partial W} = X^T \Delta, \qquad \dfrac{\partial E}{\partial b} = 1^T \Delta, '
                 r'\qquad \dfrac{\partial E}{\partial X} = \Delta W^T .$'),
        Paragraph(r'A step of SGD then uses the gradient $g = \partial E / \partial w + \lambda w$, where only weights '
                  r'decay ($\lambda = 0$ for biases and batch norm), and Nesterov momentum $\mu$ [9]: '
                  r'$v \leftarrow \mu v + g$ and $w \leftarrow w - \eta (g + \mu v)$.'),
        Heading('2  How the gradients were checked'),
        Paragraph('A derivation can be right and its code wrong. Every layer is therefore compared, in double '
                  'precision and on random shapes, with central differences of the loss,'),
        Equation(r'$\dfrac{\partial E}{\partial w} = \dfrac{E(w + \epsilon) - E(w - \epsilon)}{2 \epsilon} + '
                 r'O(\epsilon^2), \qquad \epsilon = $' + power_of_ten(STEP) + ','),
        Paragraph('for its input and for each parameter; a relative error above %s fails. For this report a network of '
                  'two layers with ReLU and softmax was checked once more: over all its weights and biases the '
                  'greatest difference is %s. The checker itself was tested with layers broken on purpose, and caught '
                  'every one. Two plain checks of the whole come before any training: outputs of zero lose exactly '
                  '$\\ln\\,47$, the price of knowing nothing, and twenty images can be learned by heart.' % (
                      power_of_ten(TOLERANCE), power_of_ten(facts.gradient_error)))]


def ranges(augment):
    return ', '.join('%s %g' % part for part in sorted(augment.items()))


def final_table():
    """The layers of the final network: a row for each that has weights or new shapes, with those that follow it."""
    net, rows, parameters = character_network(), [], 0
    for layer, shape in zip(net.layers, net.shapes()):
        if not rows or isinstance(layer, (Augment, Conv2d, Flatten, FullyConnected, Reshape)):
            rows.append([])
            parameters = 0
        parameters += sum(getattr(layer, name).size for name in layer.parameter_names)
        names = rows[-1][0] + ', ' if rows[-1] else ''
        rows[-1] = [names + repr(layer), '\N{MULTIPLICATION SIGN}'.join(map(str, shape)),
                    '{:,}'.format(parameters) if parameters else '']
    return Table('**Table 3.** The final network, as layer.py names its layers; images are height, width, channels.',
                 [('layers', 340, 'left'), ('output', 55, 'right'), ('parameters', WIDTH - 415, 'right')], rows, None)


def trials_table(facts):
    rows = [[trial.trial, '%d' % trial.epochs, '%.2f' % trial.validation, '%.2f' % trial.balanced]
            for trial in facts.trials.itertuples()]
    return Table('**Table 4.** Tried before the final network was chosen, one run each, for even classes and with 8 '
                 'views, in percent. To be quick these runs were made with PyTorch in bfloat16, on images varied '
                 'beforehand.',
                 [('network', 290, 'left'), ('epochs', 45, 'right'), ('validation', 50, 'right'),
                  ('balanced', WIDTH - 415, 'right')], rows, None)


def methods(facts):
    final, training = [effect for effect in facts.effects if effect.factor == 'final network'], CHARACTER_TRAINING
    effects = [effect for effect in facts.effects[1:] if effect not in final]
    spread = ''.join(' Over its seeds the balanced accuracy, for even classes and with %d views, averages %.2f%% (from '
                     '%.2f%% to %.2f%%).' % (CHARACTER_VIEWS, effect.mean, effect.low, effect.high)
                     for effect in final if effect.clear is not None)
    return [
        Heading('3  How the accuracy was improved'),
        Paragraph('**Method.** The baseline is trained for %d epochs with batches of %d rows, SGD with Nesterov '
                  'momentum %g, weight decay %g, cross-entropy, He initialisation [1], and a learning rate that rises '
                  'to %g and falls to zero [5]. Table 2 changes one factor at a time, or the few that its setting '
                  'names. A difference counts only where every run lies on one side of every run of the baseline; all '
                  'others overlap it. The reasons in brackets are the likely ones: the table shows sizes, not causes. '
                  'Points are of balanced accuracy. *Gentle* augmentation: %s; *strong*: %s (degrees, '
                  'pixels, fractions).' % (
                      BASELINE['epochs'], BASELINE['batch_size'], BASELINE['momentum'], BASELINE['weight_decay'],
                      BASELINE['lr'], ranges(GENTLE), ranges(STRONG))),
        ablation_table(facts)] + list(factor_sentences(effects)) + [
        Paragraph('**The final network** (Table 3) takes what gained: convolutions, batch norm [2], augmentation [6], '
                  'even classes and views. To them it adds what does not pay in {} epochs but is made for longer '
                  'trainings and larger networks, whose training accuracy would otherwise run away from the validation '
                  'accuracy: dropout [3], smoothed targets [4] and averaged weights [10]; what each of these brings '
                  'there was not measured one by one. It is trained for {} epochs with batches of {} rows, a rate of '
                  'at most {:g}, momentum {:g}, weight decay {:g}, smoothing {:g} and an average whose decay is {:g} a '
                  'step. Its convolutions are computed with 3/7 of the multiplications that their definition asks for '
                  '[8].{}{}'.format(
                      BASELINE['epochs'], training['epochs'], training['batch_size'], training['lr'],
                      training['momentum'], training['weight_decay'], character_network().loss.label_smoothing,
                      training['ema_decay'], spread,
                      ' For the submission it is trained once more in the same way on all {:,} rows, those of the '
                      'validation too.'.format(len(facts.label) + len(facts.predicted)) if facts.all_rows else '')),
        final_table(),
        Heading('4  Learning curves'),
        Paragraph(curves_sentence(facts)), curves_figure(facts)]


def curves_sentence(facts):
    def gap(curve):
        points = curve.train_accuracy.iloc[-1] - curve.validation_accuracy.iloc[-1]
        return '%.1f points %s' % (abs(points), 'above' if points > 0 else 'below')

    return ('After the last epoch of the baseline (Figure 1) the training accuracy is %s the validation accuracy; for '
            'the final network it is %s. The weights of the epoch with the best balanced validation accuracy are kept: '
            'epoch %d of %d.' % (gap(facts.curve), gap(facts.final),
                                 facts.final.epoch[facts.final.validation_balanced.idxmax()], len(facts.final)))


def mistakes(facts):
    label, predicted = facts.validation[1], facts.predicted
    wrong, joined = predicted != label, score(0, merged(predicted), merged(label)).accuracy
    alike = int((wrong & (merged(predicted) == merged(label))).sum())
    return [
        Heading('5  What it gets wrong'),
        Paragraph('Of {:,} validation rows {:,} are wrong. {:,} of these mistakes stay within a group of characters of '
                  'the same shape: {} (Figures 2 and 3). With each group taken as one class the accuracy would be {}. '
                  'These characters differ by size, by a serif or by the word around them. The data crops every '
                  'character, scales it to one size [7] and shows it alone, so that most of what sets them apart is '
                  'gone before a network sees them; the reader may try with Figure 3.'.format(
                      len(label), int(wrong.sum()), alike, ', '.join(map('/'.join, ALIKE)), percent(joined))),
        confusion_figure(facts), pairs_figure(facts),
        Paragraph('The filters on the right of Figure 2 are those of the fully connected baseline, whose units see the '
                  'whole image: many are strokes and edges at one place. The nine weights of a window of the final '
                  'network are too few to read anything into.')]


def prediction(facts):
    frequency = np.bincount(facts.label, minlength=47) / float(len(facts.label))
    plain, even, several = facts.scores.values()
    return [
        Heading('6  Even classes and several views'),
        Paragraph('The shares of the classes in the training rows go from %.1f%% to %.1f%%, while the classes of the '
                  'test are even. The network learns $y_k \\approx p(k \\mid x)$ for the training shares $p(k)$; '
                  'smoothed targets draw it a little towards even shares. By Bayes,' % (
                      100 * frequency.min(), 100 * frequency.max())),
        Equation(r'$p(k \mid x) \propto p(x \mid k)\, p(k), \qquad \mathrm{so\ for\ even\ classes} \qquad '
                 r'q_k = \dfrac{y_k / p(k)}{\sum_m\; y_m / p(m)} .$'),
        Paragraph('On the validation rows, whose classes are as uneven as in training, this changes the plain accuracy '
                  'by %s points and the balanced accuracy, which weighs classes as the test does, by %s. Averaging $y$ '
                  'over %d views, the image itself and %d varied as in training, changes the balanced accuracy by '
                  'another %s, %s the standard error of an accuracy on these rows.' % (
                      signed(even.accuracy - plain.accuracy), signed(even.balanced_accuracy - plain.balanced_accuracy),
                      CHARACTER_VIEWS, CHARACTER_VIEWS - 1, signed(several.balanced_accuracy - even.balanced_accuracy),
                      'less than' if abs(several.balanced_accuracy - even.balanced_accuracy) < standard_error(facts)
                      else 'more than'))]


def standard_error(facts):
    """Of the final accuracy, in points: the rows are a sample."""
    accuracy = list(facts.scores.values())[-1].accuracy / 100
    return 100 * math.sqrt(accuracy * (1 - accuracy) / len(facts.predicted))


def listed(effects):
    return '; '.join('%s (%s)' % (factor, ', '.join('*%s*' % effect.setting for effect in settings))
                     for factor, settings in by_factor(effects))


def limits(facts):
    effects, accuracy = facts.effects[1:], list(facts.scores.values())[-1].accuracy
    chance = 2.0 * len(effects) * math.factorial(facts.seeds) ** 2 / math.factorial(2 * facts.seeds)
    losing, unclear = [[effect for effect in effects if effect.clear == sign] for sign in (-1, 0)]
    seeds = ('{} for each setting say little about the spread: if no setting mattered, about {:.0f} of {} would still '
             'lie clear of the baseline' if facts.seeds > 1 else 'One says nothing about the spread').format(
                 facts.seeds, chance, len(effects))
    blocks = [Heading('7  What did not help')]
    if losing:
        blocks.append(Paragraph('**Clearly worse** than the baseline (Table 2): %s.' % listed(losing)))
    if unclear:
        blocks.append(Paragraph('**Not shown to help,** as their runs overlap those of the baseline: %s.' %
                                listed(unclear)))
    return blocks + [
        Paragraph('**For the final network** (Table 4) more weight decay, the predictions of an older network as '
                  'targets and the mean of several networks did not help; a smaller network comes close in half the '
                  'epochs.'),
        trials_table(facts),
        Heading('8  Limits'),
        Paragraph('**Rows.** With {:,} validation rows the standard error of an accuracy of {} is {:.2f} points, and '
                  'the same rows chose the epoch and the methods, so the figures are somewhat optimistic. The labels '
                  'of the test are not known here. **Seeds.** {}. **One factor at a time** says nothing about how '
                  'factors act together, and {} epochs favour what learns fast. **Data.** This is EMNIST-47 in the '
                  "lab's sizes, not the official Balanced split of EMNIST: the figures cannot be compared with "
                  'published ones.'.format(
                      len(facts.predicted), percent(accuracy), standard_error(facts), seeds, BASELINE['epochs'])),
        Heading('Sources')] + [Note('[%d] %s' % numbered) for numbered in enumerate(SOURCES, 1)]


SOURCES = [
    'K. He, X. Zhang, S. Ren, J. Sun: *Delving deep into rectifiers.* ICCV 2015, arXiv:1502.01852.',
    'S. Ioffe, C. Szegedy: *Batch normalization.* ICML 2015, arXiv:1502.03167.',
    'N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever, R. Salakhutdinov: *Dropout.* JMLR 15, 2014.',
    'C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna: *Rethinking the Inception architecture.* CVPR 2016.',
    'L. Smith, N. Topin: *Super-convergence.* 2017, arXiv:1708.07120.',
    'P. Simard, D. Steinkraus, J. Platt: *Best practices for convolutional neural networks.* ICDAR 2003.',
    'G. Cohen, S. Afshar, J. Tapson, A. van Schaik: *EMNIST.* 2017, arXiv:1702.05373.',
    'A. Lavin, S. Gray: *Fast algorithms for convolutional neural networks.* 2015, arXiv:1509.09308.',
    'I. Sutskever, J. Martens, G. Dahl, G. Hinton: *On the importance of initialization and momentum.* ICML 2013.',
    'B. Polyak, A. Juditsky: *Acceleration of stochastic approximation by averaging.* SIAM J. Control Optim. 30, 1992.']


def content(facts):
    """The report as a list of blocks, behind its title."""
    return ([Paragraph(abstract(facts)), networks_table(facts)] + derivation(facts) + methods(facts) + mistakes(facts) +
            prediction(facts) + limits(facts))


def typeset(facts, output, name, student, date):
    """Write the PDF; the same facts, name, id and date give the same bytes."""
    with rc_context(STYLE):
        document = Document('Lab 1: back propagation, %s' % student)
        byline = [part for part in (name, student, date.strftime('%d %B %Y').lstrip('0')) if part]
        document.title('Back propagation by hand', 'Lab 1: reading 47 handwritten characters with a neural network in '
                       'NumPy', '  \N{MIDDLE DOT}  '.join(byline))
        for block in content(facts):
            document.add(block)
        midnight = datetime.datetime(date.year, date.month, date.day, tzinfo=datetime.timezone.utc)
        with replacing(output) as file:
            document.save(file, {'Title': 'Lab 1: back propagation', 'Author': ', '.join(byline[:-1]),
                                 'CreationDate': midnight, 'ModDate': midnight})


def build(options, student, output):
    """Gather the facts from where the options say, and typeset them."""
    facts = gather(options.experiments, options.weights, options.data, options.validation)
    typeset(facts, output, options.name, student, options.date)


def day(text):
    return datetime.datetime.strptime(text, '%Y-%m-%d').date()


def parser(description):
    """The options that a report has however it is made."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument('--name', default='', help='stands beside the id')
    result.add_argument('--date', type=day, default=datetime.date.today(), metavar='YYYY-MM-DD', help='default: today')
    result.add_argument('--experiments', default=os.path.join(HOME, 'experiments.csv'), metavar='CSV')
    result.add_argument('--weights', default=os.path.join(HOME, 'character_network.npz'), metavar='NPZ',
                        help='of the final network; its learning curve is the .csv beside it')
    result.add_argument('--data', default=os.path.join(os.path.dirname(HOME), 'data'), metavar='FOLDER')
    result.add_argument('--validation', type=int, default=8000, metavar='ROWS', help='default: 8000')
    return result


def main(arguments=None):
    """Typeset the lab's report; exit code 2 with one sentence where an input is missing or damaged."""
    options = parser(main.__doc__)
    options.add_argument('--id', default='studentid')
    options.add_argument('--output', default='Lab1_report_studentid.pdf', metavar='PDF')
    options = options.parse_args(arguments)
    try:
        build(options, options.id, options.output)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print('Wrote %s' % options.output)
    return 0


if __name__ == '__main__':
    sys.exit(main())
