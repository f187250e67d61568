"""Stand-ins for the packages that MONAI Label 0.8.5 imports when it starts and this app never calls.

pydicom_seg    datastore/utils/convert.py:21. Needs pydicom < 3 where dicomweb-client needs 3. Goes when a release
               closes github.com/Project-MONAI/MONAILabel/issues/1841.
torchvision    transform/post.py:32 and deepedit/handlers.py:19, one function each. Its builds for CUDA do not load
               beside a CPU build of torch. No upstream issue; goes when the import moves into these functions.
itk            transform/writer.py:16, which is not used here and takes 555 MB. No upstream issue; goes likewise.
girder_client  datastore/dsa.py:19, for pathology archives. No upstream issue; goes likewise.

A .pth file beside this module imports it whenever an interpreter starts, so the processes that MONAI Label starts have
the stand-ins too. One is offered only to a process that imports monailabel, and only after all other finders have
failed: an installed package is never shadowed. One that is installed and broken (torchvision for another torch) is
left as it is; uninstall it. A stand-in looks like an empty namespace package, which MONAI's optional_import counts as
not installed; so MONAI does not come to read images with ITK because of it.
"""

import sys

# Module to the names that MONAI Label takes from it while it is imported.
STAND_INS: dict[str, tuple[str, ...]] = {
    "girder_client": (),
    "itk": (),
    "pydicom_seg": (),
    "torchvision": (),
    "torchvision.utils": ("make_grid", "save_image"),
}


class Finder:
    """The last finder: offers a stand-in for what nobody else has found."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """Return the spec of a stand-in, or None."""
        if name not in STAND_INS or "monailabel" not in sys.modules:
            return None
        from importlib.machinery import ModuleSpec  # here, to keep the start of an interpreter cheap

        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: object) -> None:
        """Leave the making of the module to the import system."""

    def exec_module(self, module: object) -> None:
        """Give the module the names it must have; they, and all others, fail when used."""
        name = vars(module)["__name__"]
        text = f"{name} is not installed; this is a stand-in of cardiac-label-shims"

        def absent(*_: object, **__: object) -> None:
            raise ImportError(text)

        def missing(attribute: str) -> None:
            raise AttributeError(f"{text}, without {attribute}")

        vars(module).update(dict.fromkeys(STAND_INS[name], absent), __getattr__=missing)


sys.meta_path.append(Finder())  # type: ignore[arg-type]
