"""The module that MONAI Label brings for 3D Slicer, its own MONAILabel.py, without Slicer.

Stand-ins take the place of Qt's widgets and of Slicer's scene: boxes and tables hold what they are given, a
segmentation is a dictionary of arrays, an image is SimpleITK's. All between them and the server is the module's own
code. Use it in a process of its own, since the stand-ins take the names of Slicer's packages.
"""

# ruff: noqa: N802, N803, N815 - names of Qt and Slicer

import hashlib
import importlib.util
import sys
import sysconfig
import types
import urllib.request
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name its documentation uses

FOLDER = Path(sysconfig.get_path("data")) / "monailabel" / "plugins" / "slicer" / "MONAILabel"


class Base:
    """A class of Slicer's or Qt's to derive from."""

    def __init__(self, *_, **__):
        pass


class Box(Base):
    """A combo box."""

    def __init__(self):
        self.items, self.currentIndex = [], -1

    count = property(lambda self: len(self.items))

    def itemText(self, index):
        return self.items[index] if 0 <= index < len(self.items) else ""

    @property
    def currentText(self):
        return self.itemText(self.currentIndex)

    @currentText.setter
    def currentText(self, text):
        self.currentIndex = self.findText(text)

    def addItem(self, text):
        assert isinstance(text, str)  # Qt takes nothing else
        self.items.append(text)
        self.currentIndex = max(self.currentIndex, 0)

    def clear(self):
        self.items, self.currentIndex = [], -1

    def findText(self, text):
        return self.items.index(text) if text in self.items else -1

    def setCurrentIndex(self, index):
        self.currentIndex = index

    def blockSignals(self, _):
        return False

    def setItemData(self, *_):
        pass

    setToolTip = setEnabled = setItemData


class CheckBox(Base):
    checked = False

    def setChecked(self, checked):
        assert isinstance(checked, bool)
        self.checked = checked


class Cell:
    def __init__(self, text):
        assert isinstance(text, str)
        self._text = text

    def text(self):
        return self._text

    def flags(self):
        return 0

    def setFlags(self, _):
        pass


class Table:
    """The table of options."""

    def __init__(self):
        self.clear()

    def clear(self):
        self._cells, self._widgets, self.rowCount = {}, {}, 0

    def setRowCount(self, rows):
        self.rowCount = rows

    def setItem(self, row, column, cell):
        self._cells[row, column] = cell

    def setCellWidget(self, row, column, widget):
        self._widgets[row, column] = widget

    def item(self, row, column):
        return self._cells.get((row, column))

    def cellWidget(self, row, column):
        return self._widgets.get((row, column))

    def setColumnCount(self, *_):
        pass

    setHorizontalHeaderLabels = setColumnWidth = setColumnCount


class Bar:
    """A progress bar."""

    value = 0

    def setValue(self, value):
        assert 0 <= value <= 100
        self.value = value

    def setToolTip(self, text):
        self.tip = text

    def setStyleSheet(self, _):
        pass


class Text:
    """vtk.mutable, a text that others set."""

    def __init__(self, text):
        self.text = text

    def __str__(self):
        return self.text


class Segment:
    def __init__(self, name):
        self.name, self.tags, self.inside = name, {}, None

    def GetName(self):
        return self.name

    def SetTag(self, key, value):
        self.tags[key] = value

    def GetTag(self, key, text):
        text.text = self.tags.get(key, "")


class Segmentation(dict):
    """A segmentation and its node: segments by id, which is their name."""

    def GetSegmentation(self):
        return self

    def GetSegmentIdBySegmentName(self, name):
        return name if name in self else ""

    def GetSegment(self, name):
        return self.get(name)

    def GetNthSegmentID(self, index):
        return [*self][index]

    def GetNumberOfSegments(self):
        return len(self)

    def AddEmptySegment(self, identity, name, colour):
        assert colour is None or len(colour) == 3
        self[identity] = Segment(name)

    def SetName(self, _):
        pass

    SetReferenceImageGeometryParameterFromVolumeNode = SetName


class Volume:
    """A node that holds an image."""

    def __init__(self, image=None, name=""):
        self.image, self.name = image, name

    def GetName(self):
        return self.name

    def SetName(self, name):
        self.name = name


class Names(list):
    InsertNextValue = list.append


def take(labelmap, segmentation, names):
    """Slicer's ImportLabelmapToSegmentationNode with a list of ids: the first is what has value 1, and so on."""
    array = sitk.GetArrayFromImage(labelmap.image).T
    for value, name in enumerate(names, start=1):
        if name in segmentation:
            segmentation[name].inside = array == value


def give(segmentation, names, labelmap, like):
    """Slicer's ExportSegmentsToLabelmapNode: the first of the ids gets value 1, and so on."""
    array = np.zeros(like.image.GetSize(), np.uint8)
    for value, name in enumerate(names, start=1):
        if segmentation[name].inside is not None:
            array[segmentation[name].inside] = value
    labelmap.image = sitk.GetImageFromArray(array.T)
    labelmap.image.CopyInformation(like.image)


def open_module(address, folder, user="ann", token=""):
    """Return the module's window, connected to nothing yet; what it would show as an error is raised."""
    module = _load(folder)
    own = folder / "module"  # which it removes in the end
    own.mkdir()
    window = module.MONAILabelWidget()
    window.ui = MagicMock(configTable=Table())
    boxes = "inputSelector segmentationModelSelector deepgrowModelSelector scribblesMethodSelector labelComboBox "
    boxes += "scribLabelComboBox appComboBox strategyBox trainerBox optionsSection optionsName serverComboBox"
    for name in boxes.split():
        setattr(window.ui, name, Box())
    for name in ("accuracyProgressBar", "trainingProgressBar", "activeLearningProgressBar"):
        setattr(window.ui, name, Bar())
    for section in ("infer", "train", "activelearning", "scoring"):
        window.ui.optionsSection.addItem(section)
    window.ui.serverComboBox.addItem(address)
    window.ui.freezeUpdateCheckBox.checked = False
    window.ui.sam2PlaceWidget.currentNode.return_value = None
    window.logic = module.MONAILabelLogic(tmpdir=str(own))
    asked = types.SimpleNamespace(username=MagicMock(text=user), password=MagicMock(text=token))
    module.LoginDialog = lambda **_: MagicMock(ui=asked)
    sys.modules["slicer"].mrmlScene.Clear.side_effect = lambda _: _close(window)
    window.saveServerUrl = window.onResetScribbles = window.resetSam2ROI = lambda: None
    window.createScribblesROINode = window.createSam2ROINode = lambda: None
    window.tmpdir, window.timer, window.progressBar = str(own), MagicMock(), MagicMock()
    parameters = {}
    window._parameterNode = MagicMock(
        GetParameter=lambda key: parameters.get(key, ""), SetParameter=parameters.__setitem__
    )
    return window


def _close(window):
    """What the module does when a scene is closed, as far as it is not about windows."""
    window._volumeNode = window._segmentNode = window.current_sample = None
    window._volumeNodes.clear()
    window.samples.clear()


def _load(folder):
    def package(name, **content):
        found = sys.modules[name] = types.ModuleType(name)
        vars(found).update(content)
        return found

    def show_error(text, detailedText=""):
        raise AssertionError(f"{text}\n{detailedText}")

    def download(nodeNames, fileNames, uris, checksums):
        """What SampleData does without a file in its folder: no proof is sent, and the checksum is looked at."""
        path = folder / fileNames
        with urllib.request.urlopen(uris, timeout=60) as answer:
            path.write_bytes(answer.read())
        algorithm, _, digest = checksums.partition(":")
        assert hashlib.new(algorithm, path.read_bytes()).hexdigest() == digest
        return [Volume(sitk.ReadImage(str(path)), nodeNames)]

    shown, scene = [], MagicMock()
    scene.GetFirstNodeByClass.return_value = None
    kinds = {"vtkMRMLSegmentationNode": Segmentation, "vtkMRMLLabelMapVolumeNode": Volume}
    scene.AddNewNodeByClass.side_effect = lambda kind: kinds.get(kind, MagicMock)()
    segmentations = MagicMock(ImportLabelmapToSegmentationNode=take, ExportSegmentsToLabelmapNode=give)
    modules = MagicMock()
    modules.segmentations.logic.return_value = segmentations
    util = package(
        "slicer.util",
        VTKObservationMixin=type("VTKObservationMixin", (Base,), {}),
        toBool=bool,
        settingsValue=lambda key, default, converter=None: False if key.endswith("NextSample") else default,
        errorDisplay=show_error,
        infoDisplay=lambda text, detailedText="": shown.append(detailedText),
        warningDisplay=show_error,
        confirmOkCancelDisplay=lambda _: True,
        getNodesByClass=lambda _: [],
        saveNode=lambda node, path: sitk.WriteImage(node.image, path),
    )
    bases = [f"ScriptedLoadableModule{part}" for part in ("", "Widget", "Logic", "Test")]
    package("slicer.i18n", tr=lambda text: text, translate=lambda _, text: text)
    package("slicer.ScriptedLoadableModule", **{name: type(name, (Base,), {}) for name in bases})
    package(
        "slicer",
        util=util,
        modules=modules,
        mrmlScene=scene,
        app=MagicMock(),
        vtkMRMLMarkupsNode=MagicMock(),
        shown=shown,
    )
    package("vtk", vtkStringArray=Names, mutable=Text)
    package("qt", QDialog=type("QDialog", (Base,), {}), QCheckBox=CheckBox, QComboBox=Box, QTableWidgetItem=Cell)
    sys.modules["qt"].Qt, sys.modules["qt"].QApplication = MagicMock(ItemIsEditable=0), MagicMock()
    sys.modules["qt"].QTimer = MagicMock()
    package("ctk", ctkSettingsPanel=type("ctkSettingsPanel", (Base,), {}))
    package("sitkUtils", PushVolumeToSlicer=lambda image, _, className: Volume(image))
    package("SampleData", SampleDataLogic=lambda: types.SimpleNamespace(downloadFromURL=download))
    package("vtkSegmentationCore")
    sys.path.append(str(FOLDER))
    spec = importlib.util.spec_from_file_location("MONAILabel", FOLDER / "MONAILabel.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
