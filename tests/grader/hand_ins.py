"""Hand-ins for the tests of the grader: a right one, small changes that make mistakes, and forms.

A change is (file, old text, new text). MISTAKES_MADE holds right hand-ins with one mistake each,
FORMS holds right ones that are written in another way.
"""

import re

import grade_start

# The lines that fill the blanks of grade.py --start
SOLUTIONS = {
    1: 'self.input = input\nreturn input @ self.weight + self.bias',
    2: 'self.weight_grad = self.input.T @ output_grad',
    3: 'self.bias_grad = output_grad.sum(axis=0, keepdims=True)',
    4: 'return output_grad @ self.weight.T',
    5: 'self.input = input\nreturn np.maximum(input, 0)',
    6: 'return output_grad * (self.input > 0)',
    7: ('exponential = np.exp(logits - logits.max(axis=1, keepdims=True))\n'
        'return exponential / exponential.sum(axis=1, keepdims=True)'),
    8: ('self.predict, self.target = predict, target\n'
        'loss = -np.sum(target * np.log(predict + 1e-12)) / len(input)\n'
        'return predict, loss'),
    9: 'return (self.predict - self.target) / len(self.target)',
    10: ('h1 = self.act1.forward(self.fc1.forward(input))\n'
         'return self.loss.forward(self.fc2.forward(h1), target)'),
    11: ('grad = self.act1.backward(self.fc2.backward(self.loss.backward()))\n'
         'self.fc1.backward(grad)'),
    12: ('for fc in (self.fc1, self.fc2):\n'
         '    fc.weight -= lr * fc.weight_grad\n'
         '    fc.bias -= lr * fc.bias_grad'),
}

SIGMOID = '''class Sigmoid(_Layer):
    def forward(self, input):
        self.input = input
        self.output = 1 / (1 + np.exp(-input))
        return self.output

    def backward(self, output_grad):
        return output_grad * self.output * (1 - self.output)


'''


def filled(text, task):
    """The text with the blank of one task filled, or None if it holds no such blank."""
    blank = re.search(rf"( *)raise NotImplementedError\('task {task}:.*\)\n", text)
    if blank is None:
        return None
    lines = [f'{blank.group(1)}{line}\n' for line in SOLUTIONS[task].split('\n')]
    return text.replace(blank.group(), ''.join(lines))


def all_filled(text):
    """The text with all blanks filled, without docstrings and what is None at first."""
    for task in SOLUTIONS:
        text = filled(text, task) or text
    text = re.sub(r'\n *""".*?"""(?=\n)', '', '\n' + text, flags=re.DOTALL)
    text = re.sub(r'\n.*_grad = None', '', text)
    return text.replace(':\n\n    def', ':\n    def').lstrip()


LAYER = all_filled(grade_start.LAYER).replace('def softmax', SIGMOID + 'def softmax')
NETWORK = all_filled(grade_start.NETWORK)
RIGHT = {'layer.py': LAYER, 'network.py': NETWORK}

L, N = 'layer.py', 'network.py'
WEIGHT = 'self.input.T @ output_grad'
BIAS = 'output_grad.sum(axis=0, keepdims=True)'
RELU = 'return np.maximum(input, 0)'
RELU_GRAD = 'return output_grad * (self.input > 0)'
SHIFT = 'logits - logits.max(axis=1, keepdims=True)'
LOSS = '-np.sum(target * np.log(predict + 1e-12)) / len(input)'
ERROR = 'return (self.predict - self.target) / len(self.target)'
FC_BACKWARD = LAYER.split('output_grad):\n        ')[2].split('\n\n\n')[0]
STEP = 'fc.weight -= lr * fc.weight_grad'

# slug -> [(name, changes)]
MISTAKES_MADE = {
    'softmax-overflow': [('exp of the logits', [(L, SHIFT, 'logits')])],
    'softmax-max-of-batch': [('one maximum', [(L, SHIFT, 'logits - logits.max()')])],
    'softmax-axis': [
        ('sum over the rows', [(L, 'exponential.sum(axis=1', 'exponential.sum(axis=0')]),
        ('sum over all', [(L, 'exponential.sum(axis=1, keepdims=True)', 'exponential.sum()')])],
    'log-of-zero': [('log of y', [(L, 'predict + 1e-12', 'predict')])],
    'loss-not-the-mean': [
        ('a sum', [(L, LOSS, LOSS.replace(' / len(input)', ''))]),
        ('over N K', [(L, LOSS, '-np.mean(target * np.log(predict + 1e-12))')])],
    'loss-is-an-array': [
        ('one a row', [(L, LOSS, '-np.sum(target * np.log(predict + 1e-12), axis=1)')])],
    'loss-gradient-times-n': [('no 1/N', [(L, ERROR, 'return self.predict - self.target')])],
    'loss-gradient-other-function': [
        ('squared error', [(L, LOSS, '0.5 * np.sum((predict - target) ** 2) / len(input)')]),
        ('softmax twice', [(L, ERROR, ERROR.replace(
            'return ', 'return self.predict * (1 - self.predict) * '))]),
        ('minus', [(L, ERROR, ERROR.replace('(self', '-(self', 1))]),
        ('a number', [(L, ERROR, ERROR.replace('(', 'np.sum(', 1)), (N, NETWORK, '')])],
    'loss-changes-input': [
        ('in place', [(L, 'predict = softmax(input)',
                       'input -= input.max(axis=1, keepdims=True)\n'
                       '        predict = softmax(input)')])],
    'bias-grad': [
        ('over the outputs', [(L, BIAS, 'output_grad.sum(axis=1, keepdims=True)')]),
        ('not summed', [(L, BIAS, 'output_grad')]),
        ('one for all', [(L, BIAS, 'output_grad.sum()')]),
        ('mean', [(L, BIAS, 'output_grad.mean(axis=0, keepdims=True)')])],
    'weight-grad': [
        ('over N', [(L, WEIGHT, WEIGHT + ' / len(output_grad)')]),
        ('minus', [(L, WEIGHT, '-' + WEIGHT)])],
    'input-grad': [
        ('over M', [(L, 'return output_grad @ self.weight.T',
                     'return output_grad @ self.weight.T / output_grad.shape[1]')]),
        ('None', [(L, 'return output_grad @ self.weight.T', 'output_grad @ self.weight.T')])],
    'activation-ignores-gradient': [
        ('the mask', [(L, RELU_GRAD, 'return (self.input > 0) * 1.0')])],
    'activation-mask-of-gradient': [
        ('relu of it', [(L, RELU_GRAD, 'return output_grad * (output_grad > 0)')])],
    'activation-derivative': [
        ('a for z', [(L, 'self.output * (1 - self.output)', 'self.input * (1 - self.input)')]),
        ('no mask', [(L, RELU_GRAD, 'return output_grad')])],
    'activation-value': [('minimum', [(L, RELU, 'return np.minimum(input, 0)'),
                                      (L, 'self.input > 0', 'self.input < 0')]),
                         ('mean', [(L, 'np.exp(-input)', 'np.exp(input.mean() - input)')])],
    'activation-overflow': [
        ('exp / exp', [(L, '1 / (1 + np.exp(-input))', 'np.exp(input) / (1 + np.exp(input))')])],
    'changes-input': [
        ('relu', [(L, RELU, 'input[input < 0] = 0\n        return input')]),
        ('network', [(N, '        h1 =', '        input /= 2\n        h1 =')])],
    'changes-gradient': [
        ('relu', [(L, RELU_GRAD, 'output_grad[self.input <= 0] = 0\n        return output_grad')])],
    'one-batch-size': [
        ('ten biases', [(L, 'np.zeros((1, out_features))', 'np.zeros((10, out_features))'),
                        (L, BIAS, 'output_grad')]),
        ('fixed divisor', [(L, ERROR, 'return (self.predict - self.target) / 100'),
                           (L, LOSS, LOSS.replace('len(input)', '100'))])],
    'update-leaves-out': [('bias', [(N, 'fc.bias -= lr * fc.bias_grad', 'pass')])],
    'update-rule': [
        ('twice', [(N, STEP, STEP + '\n            ' + STEP)]),
        ('decay', [(N, STEP, 'fc.weight -= lr * (fc.weight_grad + 0.01 * fc.weight)')])],
    'update-in-backward': [
        ('step', [(L, f'self.weight_grad = {WEIGHT}',
                   f'self.weight_grad = {WEIGHT}\n'
                   '        self.weight -= 0.01 * self.weight_grad')])],
    'not-finished': [('None', [(L, RELU, 'pass')]),
                     ('no backward', [(L, FC_BACKWARD, 'pass'), (N, NETWORK, '')])],
    'other': [
        ('piles up', [(L, f'self.weight_grad = {WEIGHT}',
                       f"self.weight_grad = getattr(self, 'weight_grad', 0) + {WEIGHT}")]),
        ('skips', [(N, 'self.act1.backward(self.fc2.backward(self.loss.backward()))',
                    'self.fc2.backward(self.loss.backward())')])],
}

# name -> changes. All are right.
FORMS = {
    'handout': [],
    'float32': [(L, 'np.sqrt(2 / in_features)', 'np.sqrt(2 / in_features)\n        self.weight = '
                 'self.weight.astype(np.float32)'),
                (L, 'self.input = input\n        return input @',
                 'input = self.input = input.astype(np.float32)\n        return input @'),
                (L, 'np.zeros((1, out_features))', 'np.zeros((1, out_features), np.float32)')],
    '(out, in)': [(L, 'randn(in_features, out_features)', 'randn(out_features, in_features)'),
                  (L, 'input @ self.weight', 'input @ self.weight.T'),
                  (L, 'output_grad @ self.weight.T', 'output_grad @ self.weight'),
                  (L, WEIGHT, 'output_grad.T @ self.input')],
    'columns': [(L, BIAS, 'BIAS'), (L, 'axis=1', 'axis=0'),
                (L, 'randn(in_features, out_features)', 'randn(out_features, in_features)'),
                (L, 'np.zeros((1, out_features))', 'np.zeros((out_features, 1))'),
                (L, 'input @ self.weight + self.bias', 'self.weight @ input + self.bias'),
                (L, WEIGHT, 'output_grad @ self.input.T'),
                (L, 'BIAS', 'output_grad.sum(axis=1, keepdims=True)'),
                (L, 'return output_grad @ self.weight.T', 'return self.weight.T @ output_grad'),
                (L, 'len(input)', 'input.shape[1]'),
                (L, 'len(self.target)', 'self.target.shape[1]')],
    'rows turned to columns inside': [
        (N, 'self.fc1.forward(input)', 'self.fc1.forward(input.T)'),
        (N, 'return self.loss.forward(self.fc2.forward(h1), target)',
         'y, loss = self.loss.forward(self.fc2.forward(h1), target.T)\n        return y.T, loss')],
    '(N, 1, out)': [(L, 'input @ self.weight + self.bias',
                     'input[:, np.newaxis] @ self.weight + self.bias'),
                    (L, WEIGHT, 'self.input.T @ output_grad[:, 0]'),
                    (L, BIAS, 'output_grad[:, 0].sum(axis=0, keepdims=True)'),
                    (L, 'return output_grad @ self.weight.T',
                     'return output_grad[:, 0] @ self.weight.T'),
                    (N, 'self.act1.forward(self.fc1.forward(input))',
                     'self.act1.forward(self.fc1.forward(input))[:, 0]'),
                    (N, 'self.fc2.forward(h1)', 'self.fc2.forward(h1)[:, 0]'),
                    (N, 'self.loss.backward()', 'self.loss.backward()[:, np.newaxis]'),
                    (N, 'self.fc1.backward(grad)', 'self.fc1.backward(grad[:, np.newaxis])'),
                    (N, 'self.act1.backward(', 'self.act1.backward_rows('),
                    (L, RELU_GRAD, RELU_GRAD + '\n\n    def backward_rows(self, output_grad):\n'
                     '        return self.backward(output_grad[:, np.newaxis])[:, 0]')],
    'other names': [(L, 'FullyConnected', 'Linear'), (N, 'FullyConnected', 'Linear'),
                    (L, 'self.weight', 'self.W'), (N, '.weight', '.W'), (L, 'W_grad', 'dW'),
                    (N, 'W_grad', 'dW'), (L, 'self.bias', 'self.b'), (N, '.bias', '.b'),
                    (L, 'b_grad', 'db'), (N, 'b_grad', 'db'), (L, 'ReLU', 'ACTIVITY1'),
                    (N, 'ReLU', 'ACTIVITY1'), (N, 'self.loss', 'self.act3'),
                    (L, 'SoftmaxWithLoss', 'SoftmaxWithCE'),
                    (N, 'SoftmaxWithLoss', 'SoftmaxWithCE')],
    'class numbers': [(L, 'target * np.log(predict + 1e-12)',
                       'np.log(predict[np.arange(len(target)), target] + 1e-12)'),
                      (L, ERROR, 'grad = self.predict.copy()\n'
                       '        grad[np.arange(len(grad)), self.target] -= 1\n'
                       '        return grad / len(grad)')],
    'mask returned': [(L, '    def backward(self, output_grad):\n        ' + RELU_GRAD,
                       '    def backward(self):\n        return self.input > 0'),
                      (N, 'self.act1.backward(self.fc2.backward(self.loss.backward()))',
                       'self.fc2.backward(self.loss.backward()) * self.act1.backward()')],
    'derivative of what is given': [
        (L, RELU_GRAD, 'return output_grad > 0'),
        (N, 'self.act1.backward(self.fc2.backward(self.loss.backward()))',
         'self.fc2.backward(self.loss.backward()) * self.act1.backward(self.act1.input)')],
    'loss.backward(target)': [(L, 'def backward(self):', 'def backward(self, target):'),
                              (N, 'def backward(self):', 'def backward(self, pred, target):'),
                              (N, 'self.loss.backward()', 'self.loss.backward(target)')],
    '1/N in the layers': [(L, ERROR, 'return self.predict - self.target'),
                          (L, WEIGHT, WEIGHT + ' / len(output_grad)'),
                          (L, BIAS, BIAS.replace('sum', 'mean'))],
    'loss apart': [(N, 'def forward(self, input, target):', 'def forward(self, input):'),
                   (N, 'return self.loss.forward(self.fc2.forward(h1), target)',
                    'self.logits = self.fc2.forward(h1)\n        return softmax(self.logits)\n\n'
                    '    def compute_loss(self, target):\n'
                    '        return self.loss.forward(self.logits, target)[1]')],
    'loss outside': [(N, '        self.loss = SoftmaxWithLoss()\n', ''),
                     (N, 'def forward(self, input, target):', 'def forward(self, input):'),
                     (N, 'return self.loss.forward(self.fc2.forward(h1), target)',
                      'return self.fc2.forward(h1)'),
                     (N, 'def backward(self):', 'def backward(self, output_grad):'),
                     (N, 'self.loss.backward()', 'output_grad')],
    'layers in a list': [(N, 'h1 = self.act1.forward(self.fc1.forward(input))',
                          'self.layers = [self.fc1, self.act1, self.fc2]\n'
                          '        for layer in self.layers:\n'
                          '            input = layer.forward(input)'),
                         (N, 'self.loss.forward(self.fc2.forward(h1), target)',
                          'self.loss.forward(input, target)'),
                         (N, 'grad = self.act1.backward(self.fc2.backward(self.loss.backward()))\n'
                          '        self.fc1.backward(grad)',
                          'grad = self.loss.backward()\n'
                          '        for layer in self.layers[::-1]:\n'
                          '            grad = layer.backward(grad)')],
    'package': [(N, 'from layer import', 'from .layer import')],
    'model.layer': [(N, 'from layer import', 'from model.layer import')],
    'update in the layers': [(N, 'fc.weight -= lr * fc.weight_grad\n            '
                              'fc.bias -= lr * fc.bias_grad', 'fc.update(lr)'),
                             (L, 'class ReLU', 'FullyConnected.update = lambda self, lr: (\n'
                              '    self.__dict__.update(weight=self.weight - lr * self.weight_grad,'
                              '\n                         bias=self.bias - lr * self.bias_grad))\n'
                              '\n\nclass ReLU')],
    'momentum': [(N, STEP, 'fc.v = 0.9 * getattr(fc, "v", 0) + fc.weight_grad\n'
                  '            fc.weight -= lr * fc.v')],
    'extra arguments': [(L, 'def forward(self, input):',
                         'def forward(self, input, training=True):'),
                        (N, 'def update(self, lr):', 'def update(self, lr, momentum=0.0):'),
                        (N, 'def __init__(self):', 'def __init__(self, hidden_size, n_classes):'),
                        (N, '47)', 'n_classes)')],
    'prints and old names': [(N, '        self.loss =', '        print("a network", np.int(3))\n'
                              '        self.loss ='),
                             (L, 'import numpy as np',
                              'import numpy as np\nimport matplotlib.pyplot as plt\n'
                              'from tqdm import tqdm')],
    'results kept, None returned': [
        (L, 'return input @ self.weight + self.bias',
         'self.output = input @ self.weight + self.bias'),
        (L, 'return output_grad @ self.weight.T', 'self.dinputs = output_grad @ self.weight.T'),
        (N, 'h1 = self.act1.forward(self.fc1.forward(input))',
         'self.fc1.forward(input)\n        h1 = self.act1.forward(self.fc1.output)\n'
         '        self.fc2.forward(h1)'),
        (N, 'self.fc2.forward(h1), target)', 'self.fc2.output, target)'),
        (N, 'grad = self.act1.backward(self.fc2.backward(self.loss.backward()))',
         'self.fc2.backward(self.loss.backward())\n'
         '        grad = self.act1.backward(self.fc2.dinputs)')],
    'bias in the weight': [(L, 'randn(in_features, out_features)',
                            'randn(in_features + 1, out_features)'),
                           (L, '        self.bias = np.zeros((1, out_features))\n', ''),
                           (L, 'self.input = input\n        return input @ self.weight + self.bias',
                            'self.input = np.hstack([input, np.ones((len(input), 1))])\n'
                            '        return self.input @ self.weight'),
                           (L, f'        self.bias_grad = {BIAS}\n', ''),
                           (L, 'output_grad @ self.weight.T', 'output_grad @ self.weight[:-1].T'),
                           (N, '            fc.bias -= lr * fc.bias_grad\n', '')],
    'layers only': [(N, NETWORK, '')],
    'images': [(N, 'self.fc1.forward(input)', 'self.fc1.forward(input.reshape(len(input), 784))'),
               (N, 'h1 =', 'assert input.shape[1:] == (1, 28, 28)\n        h1 =')],
    '4096 inputs, 13 classes': [(N, '784', '4096'), (N, '47', '13')],
    'loss returns its gradient': [
        (L, 'return predict, loss\n\n    def backward(self):\n        ' + ERROR,
         'return loss, (predict - target) / len(input)'), (N, NETWORK, '')],
    'loss is given the network': [
        (L, 'class SoftmaxWithLoss(_Layer):\n', 'class SoftmaxWithLoss(_Layer):\n'
         '    def __init__(self, model=None, max_classes=10):\n        self.model = model\n\n'),
        (L, ERROR, ERROR.replace('return ', 'self.model.backward(') + ')'), (N, NETWORK, '')],
    'loss of probabilities': [
        (L, 'predict = softmax(input)\n', 'predict = input\n'),
        (L, 'return predict, loss', 'return loss'),
        (L, ERROR, 'return -self.target / self.predict / len(self.target)'), (N, NETWORK, '')],
    'ln (y + 1e-5)': [(L, '1e-12', '1e-5'), (N, NETWORK, ''), (
        L, ERROR, 'y, grad = self.predict, -self.target / (self.predict + 1e-5)\n        return '
        'y * (grad - (grad * y).sum(axis=1, keepdims=True)) / len(y)')],
    'a name first': [(L, 'def __init__(self, in_', 'def __init__(self, name, in_'),
                     (N, 'FullyConnected(', 'FullyConnected("fc", ')],
    'two names of a weight': [
        (L, 'self.bias = np.zeros((1, out_features))', 'self.bias = np.zeros((1, out_features))\n'
         '        self.params = {"W": self.weight}'),
        (L, 'return input @ self.weight', 'return input @ self.params["W"]')],
    'sizes in the constructor': [
        (L, 'def __init__(self, in_features, out_features):',
         'def __init__(self):\n        in_features, out_features = 784, 60'), (N, NETWORK, '')],
    'a call that keeps the input': [
        (L, 'class ReLU(_Layer):\n    def forward(self, input):\n        self.input = input\n',
         'class ReLU(_Layer):\n    def __call__(self, input):\n        self.input = input\n'
         '        return self.forward(input)\n\n    def forward(self, input):\n'),
        (N, 'self.act1.forward(', 'self.act1(')],
    'layers are added later': [(N, NETWORK, '''class Network(object):
    def __init__(self):
        self.layers = []

    def add(self, layer):
        self.layers.append(layer)

    def forward(self, input):
        for layer in self.layers:
            input = layer.forward(input)
        return input

    def backward(self, grad):
        for layer in self.layers[::-1]:
            grad = layer.backward(grad)
''')],
    'a penalty in loss and gradient': [
        (L, 'T @ output_grad', 'T @ output_grad + 0.01 * self.weight'),
        (N, 'return self.loss.forward(self.fc2.forward(h1), target)',
         'predict, loss = self.loss.forward(self.fc2.forward(h1), target)\n        return predict, '
         'loss + 0.005 * sum(np.sum(fc.weight ** 2) for fc in (self.fc1, self.fc2))')],
    'another package': [(N, 'from layer import', 'from lab1.code.layer import')],
    'model.py': [(N, 'from layer import', 'from .layer import')],
    'dropout': [(N, 'self.act1 = ReLU()', 'self.act1 = ReLU()\n        self.p = 0.5'),
                (N, 'return self.loss', 'self.mask = (np.random.rand(*h1.shape) > self.p) * 2.0\n'
                 '        h1 = h1 * self.mask\n        return self.loss'),
                (N, 'self.act1.backward(self.fc2.backward(self.loss.backward()))',
                 'self.act1.backward(self.mask * self.fc2.backward(self.loss.backward()))')],
}
COLUMNS = 'rows turned to columns inside'

# name -> changes, and a word of what is said about it. No verdict is possible.
TROUBLE = {
    'hangs': ([(L, 'import numpy as np', 'import numpy as np\nwhile True:\n    pass')], 'import'),
    'asks': ([(N, 'from layer', 'input("epochs?")\nfrom layer')], 'import'),
    'exits': ([(N, 'from layer', 'import sys\nsys.exit()\nfrom layer')], 'import'),
    'reads data': ([(N, 'from layer', 'open("data/train.csv")\nfrom layer')], 'import'),
    'dies in backward': ([(N, '        grad =', '        import os\n        os._exit(3)\n'
                           '        grad =')], 'ends the process'),
    'huge': ([(N, 'self.act1 = ReLU()',
               'self.act1 = ReLU()\n        self.x = np.ones((10 ** 12,))')],
             'MemoryError'),
    'syntax': ([(L, 'class ReLU', 'class class ReLU')], 'SyntaxError'),
}


def changed(changes, files=None):
    """{file: text} with the changes made. AssertionError if a text to change is not there."""
    files = dict(RIGHT if files is None else files)
    for file, old, new in changes:
        assert old in files[file], f'{file} does not hold {old!r}'
        files[file] = files[file].replace(old, new)
    return files
