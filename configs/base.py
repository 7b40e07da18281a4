"""Every field, with its unit and its place in the paper (Li et al., ICPR 2020).

Not a run of its own: the other configurations start from its `get_config()`. The defaults are the
paper's values where it gives any.
"""

from ml_collections import ConfigDict

from landmarks_jax import losses
from landmarks_jax.data import framing


def get_config() -> ConfigDict:
    """All fields at their defaults; a field that is not here is an error."""
    config = ConfigDict()
    config.seed = 0  # of parameters, order of the photos, views and auxiliaries
    config.compute_dtype = "float32"  # of the networks: float32 | bfloat16 | float64 (tests)

    config.data = data = ConfigDict()
    data.source = "synthetic"  # of the photos: synthetic, folder, celeba, ...; see docs/datasets.md
    data.roots = ()  # folders, images, globs (folder); official layouts, or prepared forms
    data.split = "all"  # all | train | validation | test: of CelebA, MAFL, AFLW or MPII
    data.exclude = ()  # lists of photos to leave out, such as MAFL's testing.txt
    data.landmarks = ""  # "" or labelled points: CSV, TPS, COCO, DeepLabCut (folder), MTFL (mtfl)
    data.max_photos = 0  # use at most so many, chosen by their names; 0 is all (folder)
    data.crop = "center"  # center | tight | box: what the view shows of a photo
    data.canvas_size = 160  # pixels a side; views are drawn about its centre (center, tight)
    data.resident = False  # keep all canvases on each device as uint8 (prepared)
    data.num_synthetic = 20_000  # synthetic faces to draw from (synthetic)
    data.synthetic_seed = 1  # of the synthetic faces; evaluation draws from other seeds

    config.views = views = ConfigDict()
    views.size = 128  # pixels a side, a multiple of 4 (IV-A)
    views.rotation_std = (15.0, 15.0)  # degrees, normal, for x and x'
    views.rotation_limit = 40.0  # degrees; angles are clipped here
    views.scale_range = (1.0, 1.0)  # factors; the mean magnification is uniform between them
    views.scale_std = 0.05  # normal about that mean, as a share of it; 0 with the box crop
    views.shift_std = 0.04  # normal, as a share of the view's side; 0 with the box crop
    views.margin = framing.BOX_MARGIN  # 0.7; box crop: mean, over the mean of the box's sides
    views.margin_std = framing.BOX_MARGIN_STD  # 0.04; box crop: its deviation, clipped at four
    views.bend_std = 0.0  # not in the paper: bumps that bend x', normal, in half sides of the view

    views.color_std = 0.0  # of self-training: normal factors of brightness, contrast and colour
    views.cutout = 0.0  # of self-training: largest side of a covered rectangle, as a share

    config.model = model = ConfigDict()
    model.detector = "hourglass"  # hourglass | deep_hourglass (ours) | any importable module
    model.num_landmarks = 10  # K; the paper's are 10, 30 and 50 (Table I)
    model.features_network = "vgg16"  # vgg16 | vgg19, read by deep_hourglass (ours)
    model.features_tap = "relu3_3"  # a layer of its third block
    model.beta = 10.0  # inverse temperature of the soft-argmax (Eq. 1)
    model.sigma = 0.5  # cells of the map, of the Gaussian maps (Eq. 2)
    model.detector_channels = 256  # width of the hourglass, a multiple of 8
    model.hourglass_depth = 4  # levels, at most log2(size / 4) - 1
    model.generator_channels = 64  # c: the encoder's features have 4c (IV-A: 256)
    model.residual_blocks = 6  # of the decoder (IV-A)

    config.init = init = ConfigDict()
    # scratch | finetune | adapt: which of the detector's weights a core gives, and which train
    init.mode = "scratch"  # the paper's is adapt (IV-A); see docs/pretraining.md
    init.core = ""  # folder of a run of mpii_pretrain, or a published PyTorch file
    init.features = ""  # .npz of the network that deep_hourglass reads, from scratch

    config.objective = objective = ConfigDict()
    # self_training and self_training_reconstruction are ours; pose has labels (MPII)
    objective.task = "landmarks"  # landmarks | self_training | self_training_reconstruction | pose
    objective.composition = "all"  # baseline | inter | cycle | all (Table I)
    objective.auxiliary = "each_step"  # each_step | fixed: when the auxiliary photos are drawn
    objective.bn_groups = "joint"  # joint | released: what a batch norm's statistics are taken over
    # pixel_weight (Eq. 5), gradient_weight, equivariance_weight, separation_weight: in Eq. 7
    for name, term in losses.TERMS.items():  # each says what it measures; 0 is not computed
        objective[f"{name}_weight"] = term.weight
    objective.separation_sigma = 0.15  # normalised units, the distance landmarks keep
    objective.reconstruction_weight = 0.01  # of Eq. 7 beside targets (self_training_reconstruction)

    # Ours, not in the paper: points refined by features are the targets of self-training.
    config.targets = targets = ConfigDict()
    targets.steps = (0,)  # when they are made: at 0 from the start, then from the detector's points
    targets.grid = 6  # points a side of a grid, the same in every photo; 0 is none (start)
    targets.extent = 0.7  # half a side of the grid, normalised units of the view
    targets.detector = ""  # packed file, or name of a shipped one, whose points come after (start)
    targets.keep = 0  # points kept, those that follow known warps best; 0 is all (start)
    targets.merge = ()  # numbers of groups that points are merged to; () keeps them as they are
    targets.mirror = False  # objects are symmetric and points from one grid: mirrored views too
    targets.weights = ""  # .npz of the network whose features are compared; "" for hog
    targets.network = "vgg19"  # vgg16 | vgg19 | hog: histograms of gradients, no network
    targets.taps = ("relu3_4", "relu4_4")  # whose features are compared; of hog: fine, coarse
    targets.components = 128  # principal components of each tap
    targets.view_size = 128  # pixels a side of the views whose features are computed
    targets.num_fit = 2_000  # photos that the discriminants are fitted on
    targets.spreads = (0.15,) * 6 + (0.1,) * 4  # s of each iteration; later rounds: the last one
    targets.temperatures = (0.1,) * 6 + (0.2,) * 4  # t of each iteration
    targets.num_views = 8  # views over which own points are averaged; mirrored as many again

    config.perceptual = perceptual = ConfigDict()
    perceptual.weights = ""  # .npz of the network; "" is the pixel loss alone (Table III, L_R only)
    perceptual.network = "vgg16"  # vgg16 | vgg19 (Table III), with the taps below
    perceptual.taps = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")  # Eq. 6
    perceptual.weight = 1.0  # of Eq. 6 in Eq. 7; 0 is not computed
    perceptual.normalize = True  # the network's own input mean and deviation
    perceptual.balance = False  # not in the paper: each tap's loss over its running mean
    perceptual.balance_decay = 0.99  # of that running mean, per step

    config.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 1e-3  # Adam (IV-A)
    optimizer.beta1 = 0.9  # decay of Adam's mean of the gradient
    optimizer.beta2 = 0.999  # decay of Adam's mean of its square
    optimizer.muon_rate = 0.0  # not in the paper: Muon's rate, for kernels; 0 is Adam for all
    optimizer.weight_decay = 0.0  # L2 added to the gradient, before Adam
    optimizer.clip_norm = 0.0  # of each network's gradient; 0 does not clip
    optimizer.warmup_steps = 0  # steps of linear rise
    optimizer.drop_steps = ()  # absolute steps at which the rate falls
    optimizer.drop_factor = 0.1  # to this share (IV-A)
    optimizer.cosine_steps = 0  # absolute step at which a cosine decay ends at 0; 0 is no decay
    optimizer.ema_decay = 0.0  # running average of the parameters, for evaluation; 0 is off

    config.train = train = ConfigDict()
    train.batch_size = 32  # photos a step, over all devices (IV-A)
    train.accumulate = 1  # micro-batches of a step, for small devices
    train.steps = 85_000  # stop after; 0 is no limit
    train.minutes = 0.0  # stop after, over all sessions; 0 is no limit
    train.log_every = 100  # steps
    train.checkpoint_every = 1_000  # steps
    train.picture_every = 1_000  # steps, and at the end; 0: never

    config.eval = evaluation = ConfigDict()
    evaluation.protocols = ("synthetic",)  # what eval measures by default
    evaluation.aflw = "data/aflw"  # folder of AFLW's five-point lists, for aflw-995 and aflw-dev
    evaluation.aflw_release = "data/aflw_release-2"  # AFLW as the VGG group cut it, for aflw
    evaluation.celeba = "data/celeba"  # CelebA in its official layout, for mafl
    evaluation.mafl = "data/mafl"  # folder of MAFL's two lists, for mafl
    evaluation.celeba400 = "data/celeba400"  # CelebA's layout with two lists, for celeba-400
    evaluation.mpii = "data/mpii"  # MPII in its official layout, for mpii
    evaluation.as_released = False  # boxes and MAFL's training photos as in the released code
    evaluation.pts_points = 5  # 5 | 68: points of --fit and --score folders with .pts files
    evaluation.num_fit = 2_000  # synthetic faces that the regressor may see (synthetic)
    evaluation.num_score = 1_000  # synthetic faces that are scored (synthetic)
    return config.lock()
