import torch

from cardiac_cine.inferers import AutocastSliceInferer


def test_every_slice_goes_through_the_network_in_the_format_asked_for():
    seen = []

    class Doubling(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(1, 1, 1, bias=False)
            torch.nn.init.constant_(self.layer.weight, 2.0)

        def forward(self, image):
            out = self.layer(image)
            seen.append((tuple(image.shape), out.dtype))
            return out

    image = torch.arange(2 * 3 * 4, dtype=torch.float32).reshape(1, 1, 2, 3, 4)
    for dtype in (torch.bfloat16, torch.float32):
        seen.clear()
        inferer = AutocastSliceInferer(dtype, roi_size=[-1, -1], sw_batch_size=1, spatial_dim=2)
        with torch.no_grad():
            out = inferer(image, Doubling())
        assert out.dtype == torch.float32
        torch.testing.assert_close(out, 2 * image)  # small integers are exact in bfloat16
        assert seen == [((1, 1, 2, 3), dtype)] * 4
