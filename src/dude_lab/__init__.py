"""The harness around `dude_peft`: training, evaluation, comparison and the command `dude`.

`dude_peft` never imports this package.
"""
