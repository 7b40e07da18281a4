"""Where official files come from and how they must lie, for the message when one is missing."""

import os

from landmarks_jax.system.errors import DataError

CELEBA = (
    "CelebA, aligned (https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html): img_align_celeba.zip "
    "unpacked as img_align_celeba/000001.jpg and on, with list_landmarks_align_celeba.txt and "
    "list_eval_partition.txt beside that folder"
)
CELEBA_TFDS = (
    "CelebA as TensorFlow Datasets prepares it: `tfds build celeb_a --data_dir DIR` downloads it "
    "and writes DIR/celeb_a/2.1.0; name DIR, or let it be TFDS's own folder"
)
MAFL = (
    "MAFL's lists (https://github.com/zhzhanp/TCDCN-face-alignment): training.txt with 19,000 and "
    "testing.txt with 1,000 photos of CelebA, one such as 000001.jpg a line"
)
AFLW = (
    "AFLW as the VGG group cut it (http://www.robots.ox.ac.uk/~vgg/research/unsupervised_landmarks/"
    "resources/aflw_release-2.zip): unpacked it holds aflw_train_images.txt, "
    "aflw_train_keypoints.mat, the same of test, and the photos under output/"
)
MTFL = (
    "MTFL (https://mmlab.ie.cuhk.edu.hk/projects/TCDCN.html) and CNN_FacePoint "
    "(https://mmlab.ie.cuhk.edu.hk/archive/CNN_FacePoint.htm): the lists training.txt and "
    "testing.txt, or trainImageList.txt and testImageList.txt, beside the folders lfw_5590, "
    "net_7876 and AFLW"
)
PTS = (
    "300-W (https://ibug.doc.ic.ac.uk/resources/facial-point-annotations/): folders of photos, "
    "beside each its points, such as lfpw/trainset/image_0001.png and image_0001.pts"
)
MPII = (
    "MPII Human Pose (http://human-pose.mpi-inf.mpg.de): mpii_human_pose_v1.tar.gz unpacked as "
    "images/000001163.jpg and on, and mpii_human_pose_v1_u12_1.mat of "
    "mpii_human_pose_v1_u12_2.zip beside that folder"
)


def need_file(path: str, origin: str) -> None:
    """Raises `DataError` with `origin` unless there is such a file."""
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file. Needed: {origin}. See docs/datasets.md")


def need_folder(path: str, origin: str) -> None:
    """Raises `DataError` with `origin` unless there is such a folder."""
    if not os.path.isdir(path):
        raise DataError(f"{path}: no such folder. Needed: {origin}. See docs/datasets.md")
