"""Take the README's pictures out of the executed notebook.

    python report/pictures.py

A cell of Lab1_studentid.ipynb with {"picture": "NAME"} in its metadata gives report/NAME.png.
"""
import base64
import json
import os

HOME = os.path.dirname(os.path.abspath(__file__))
NOTEBOOK = os.path.join(os.path.dirname(HOME), 'Lab1_studentid.ipynb')


def notebook_pictures(path=NOTEBOOK):
    """{NAME: the bytes of the PNG} of the cells that name their picture."""
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
    for name, content in notebook_pictures().items():
        with open(os.path.join(HOME, f'{name}.png'), 'wb') as file:
            file.write(content)
        print(f'wrote report/{name}.png')
