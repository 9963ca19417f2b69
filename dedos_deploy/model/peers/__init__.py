"""Published open-vocabulary models in the graph contract, read from their authors' checkpoints."""

from dedos_deploy.model.peers.cat_seg import CatSeg, CatSegConfig
from dedos_deploy.model.peers.checkpoints import PEERS, Peer, load_peer
from dedos_deploy.model.peers.freeze import freeze_peer
from dedos_deploy.model.peers.san import San, SanConfig

__all__ = [
    "PEERS",
    "CatSeg",
    "CatSegConfig",
    "Peer",
    "San",
    "SanConfig",
    "freeze_peer",
    "load_peer",
]
