"""Names of things that cameras see, for teaching a text tower.

The lists hold the class names of the usual segmentation sets, everyday objects, and other words
for the same things. `SYNONYMS` is for measuring only: nothing is trained on its grouping.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

_STREET = """
road;street;lane;highway;motorway;asphalt;tarmac;roadway;sidewalk;pavement;footpath;walkway;path;
dirt road;gravel;crosswalk;zebra crossing;lane marking;road marking;curb;kerb;speed bump;manhole;
drain;parking lot;parking space;driveway;bridge;tunnel;overpass;railway;rail track;train station;
building;house;skyscraper;tower;church;shop;store;storefront;garage;shed;hut;barn;warehouse;
factory;roof;chimney;balcony;awning;facade;column;arch;wall;brick wall;stone wall;concrete wall;
fence;railing;guard rail;guardrail;barrier;gate;hedge;pole;post;lamp post;street light;streetlight;
utility pole;mast;traffic light;traffic signal;stoplight;traffic sign;road sign;street sign;
stop sign;signboard;billboard;banner;flag;fire hydrant;parking meter;mailbox;phone booth;bus stop;
bench;fountain;statue;trash can;garbage bin;dustbin;bin;traffic cone;cone;bollard;obstacle;
tree;palm tree;bush;shrub;plant;vegetation;flower;grass;lawn;field;leaves;branch;trunk;forest;wood;
terrain;ground;soil;dirt;earth;mud;sand;rock;stone;mountain;hill;cliff;river;lake;sea;ocean;water;
pond;waterfall;swimming pool;beach;island;snow;ice;sky;cloud;clouds;fog;smoke;sun;moon;
car;automobile;sedan;van;minivan;suv;jeep;taxi;cab;police car;ambulance;fire truck;truck;lorry;
pickup truck;trailer;caravan;bus;coach;tram;train;locomotive;bicycle;bike;motorcycle;motorbike;
scooter;moped;bicyclist;cyclist;motorcyclist;rider;skateboard;stroller;wheelchair;cart;tractor;
excavator;crane;airplane;aeroplane;helicopter;boat;ship;canoe;wheel;tire;headlight;windshield;
license plate;crop;crop plant;weed;carrot;corn;wheat
"""

_INDOOR = """
floor;wooden floor;tiled floor;marble floor;carpet;rug;mat;wall;tiled wall;ceiling;tiled ceiling;
door;glass door;doorway;door frame;double door;window;glass window;window blind;blinds;curtain;
stairs;staircase;stairway;steps;escalator;elevator;lift;banister;railing;handrail;pillar;column;
corridor;hallway;hall;lobby;room;table;desk;coffee table;dining table;counter;countertop;chair;
armchair;office chair;swivel chair;seat;stool;bench;sofa;couch;ottoman;cushion;pillow;blanket;bed;
mattress;crib;wardrobe;closet;cabinet;cupboard;locker;shelf;bookcase;bookshelf;drawer;chest;dresser;
box;cardboard box;crate;basket;bag;backpack;suitcase;handbag;umbrella;picture;painting;poster;
photograph;picture frame;mirror;clock;wall clock;lamp;desk lamp;ceiling lamp;light;light fixture;
chandelier;sconce;light bulb;candle;fan;air conditioner;radiator;heater;fireplace;vase;flowerpot;
potted plant;houseplant;television;tv;screen;monitor;computer;laptop;keyboard;mouse;remote control;
phone;telephone;cell phone;printer;projector;whiteboard;blackboard;bulletin board;notice board;sign;
exit sign;book;magazine;newspaper;paper;pen;scissors;toy;teddy bear;doll;ball;game;guitar;piano;
kitchen;oven;stove;microwave;toaster;refrigerator;fridge;freezer;dishwasher;washing machine;sink;
faucet;tap;bathtub;shower;toilet;towel;soap;toothbrush;hair dryer;bottle;cup;mug;glass;wine glass;
plate;bowl;pot;pan;kettle;fork;knife;spoon;tray;napkin;food;bread;cake;pizza;sandwich;hot dog;
donut;fruit;apple;banana;orange;vegetable;broccoli;salad;meat;vending machine;water dispenser;kiosk;
fire extinguisher;hydrant;fire alarm;smoke detector;trash can;garbage can;wastebasket;waste bin;
recycling bin;broom;bucket;ladder;tool;hammer;drill;machine;robot;pallet;shelf rack;forklift;cable;
conveyor belt;pipe;valve;switch;socket;tent;stage;bar;pool table;skis;snowboard;kite;surfboard;
tennis racket;baseball bat;frisbee;sports ball;structural element;furniture;appliance;textile;cloth
"""

_BEINGS = """
person;people;man;woman;boy;girl;child;baby;human;pedestrian;passer-by;crowd;worker;policeman;
driver;runner;dancer;player;face;head;hair;hand;arm;leg;foot;skin;shirt;t-shirt;blouse;sweater;
sweatshirt;hoodie;jumper;cardigan;jacket;coat;blazer;vest;suit;tie;scarf;dress;skirt;shorts;jeans;
pants;trousers;leggings;tights;stockings;socks;shoes;boots;sneakers;sandals;heels;flats;loafers;
clogs;pumps;wedges;hat;cap;helmet;glasses;sunglasses;gloves;belt;watch;ring;bracelet;necklace;
earrings;purse;wallet;accessories;swimwear;bra;panties;romper;bodysuit;intimate;
dog;puppy;cat;kitten;bird;swan;duck;goose;pigeon;chicken;horse;pony;cow;cattle;sheep;goat;pig;deer;
elephant;bear;zebra;giraffe;lion;tiger;monkey;rabbit;mouse;fish;shark;insect;bee;butterfly;animal
"""

SYNONYMS = tuple(
    tuple(group.split(", "))
    for group in (
        "car, automobile; sidewalk, pavement, footpath; person, pedestrian, human, man; "
        "tree, trees; bush, shrub, hedge; plant, houseplant; chair, armchair, seat; sofa, couch; "
        "road, street, roadway; building, house, skyscraper; fence, railing; pole, post; "
        "traffic light, stoplight, traffic signal; traffic sign, road sign, street sign; "
        "sky, skies; grass, lawn; truck, lorry; bus, coach; bicycle, bike; "
        "motorcycle, motorbike; floor, ground; door, doorway; table, desk; "
        "cabinet, cupboard, closet; picture, painting, poster; lamp, light, light fixture; "
        "trash can, bin, garbage can, dustbin; clock, wall clock; rug, carpet; pillar, column; "
        "stairs, staircase; elevator, lift; mountain, hill"
    ).split("; ")
)

MODIFIERS = tuple(
    (
        "red, blue, white, black, green, yellow, brown, grey, wooden, metal, plastic, small, "
        "large, old, new, parked, moving, broken, empty, tall, round, distant"
    ).split(", ")
)


def scene_words() -> tuple[str, ...]:
    """Return the names, each once, in a fixed order."""
    words = [word.strip() for text in (_STREET, _INDOOR, _BEINGS) for word in text.split(";")] + [
        word for group in SYNONYMS for word in group
    ]
    return tuple(dict.fromkeys(word for word in words if word))


@dataclass(frozen=True)
class WordList:
    """Words to learn from."""

    words: tuple[str, ...]
    scene: int
    """How many of the first ones name things cameras see."""


def word_list(
    common: Sequence[str], *, extra: Sequence[str] = (), pairs: int = 5000, seed: int = 0
) -> WordList:
    """Return scene words, two-word combinations of them, and `common` words of all kinds.

    extra: further names, put with the scene words; pairs: number of combinations.
    """
    scene = tuple(dict.fromkeys([*scene_words(), *extra]))
    rng = random.Random(seed)
    combined = []
    for _ in range(pairs):
        first = rng.choice(MODIFIERS) if rng.random() < 0.5 else rng.choice(scene)
        combined.append(f"{first} {rng.choice(scene)}")
    words = dict.fromkeys([*scene, *combined, *common])
    return WordList(tuple(words), len(scene))
