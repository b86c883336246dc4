"""Start-up hook: lets stock nnU-Net commands find the trainers and planners of nnunet-dino.

Installed at the top of site-packages as ``_nnunet_dino_boot`` and called whenever Python starts. All it does then is to put
one object into ``sys.meta_path``; nothing else is imported until nnU-Net's class look-up is. It never prints and never raises.
``nnUNet_dino_hook=0`` in the environment switches it off.
"""

import os
import sys

LOOKUP = "nnunetv2.utilities.find_class_by_name"


class NnunetDinoFinder:
    """Waits for the import of nnU-Net's class look-up, extends it once, and is gone."""

    searching = False

    def find_spec(self, name, path=None, target=None):
        if name != LOOKUP or self.searching:
            return None
        self.searching = True
        try:
            from importlib.util import find_spec

            spec = find_spec(name)
            load = spec.loader.exec_module

            def exec_module(module):
                spec.loader.exec_module = load
                load(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                extend(module)

            spec.loader.exec_module = exec_module
            return spec
        except Exception:
            return None
        finally:
            self.searching = False


def extend(module):
    """Extends the look-up in ``module``; a failure leaves it as it is."""
    try:
        from nnunet_dino.nnunet.discovery.hook import install

        install(module)
    except Exception:
        pass


def switched_off():
    """Returns whether the environment asks to leave nnU-Net's look-up alone."""
    return os.environ.get("nnUNet_dino_hook", "").strip().lower() in ("0", "false", "f", "no", "off")


def register():
    """Makes the look-up find our classes: now if nnU-Net's module is loaded already, else as soon as it is."""
    try:
        if switched_off():
            return
        if LOOKUP in sys.modules:
            extend(sys.modules[LOOKUP])
        elif not any(type(finder).__name__ == "NnunetDinoFinder" for finder in sys.meta_path):
            sys.meta_path.insert(0, NnunetDinoFinder())
    except Exception:
        pass
