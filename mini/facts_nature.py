"""What is true of animals, foods and nature in the world of `mini`: tables, one row per thing."""

from __future__ import annotations

# name | kind | covering | home | food | young | movement | sound
ANIMALS = """
dog | mammal | fur | kennel | bones | puppy | runs | barks
cat | mammal | fur | house | mice | kitten | climbs | meows
cow | mammal | hair | barn | grass | calf | walks | moos
horse | mammal | hair | stable | hay | foal | gallops | neighs
sheep | mammal | wool | meadow | grass | lamb | grazes | bleats
goat | mammal | hair | hill | leaves | kid | climbs | bleats
pig | mammal | bristles | sty | roots | piglet | walks | grunts
rabbit | mammal | fur | burrow | carrots | bunny | hops | squeaks
fox | mammal | fur | den | rabbits | cub | runs | yelps
wolf | mammal | fur | den | deer | pup | runs | howls
bear | mammal | fur | cave | honey | cub | walks | growls
deer | mammal | hair | forest | leaves | fawn | leaps | grunts
mouse | mammal | fur | hole | seeds | pinkie | runs | squeaks
squirrel | mammal | fur | tree | nuts | kit | climbs | chatters
bat | mammal | fur | cave | moths | pup | flies | squeaks
whale | mammal | skin | ocean | krill | calf | swims | sings
seal | mammal | fur | seashore | fish | pup | swims | barks
camel | mammal | hair | desert | thorns | calf | walks | grunts
lion | mammal | fur | savanna | zebras | cub | runs | roars
elephant | mammal | skin | savanna | leaves | calf | walks | trumpets
monkey | mammal | fur | jungle | bananas | infant | climbs | chatters
hedgehog | mammal | spines | hedge | worms | hoglet | walks | snuffles
beaver | mammal | fur | lodge | bark | kit | swims | slaps
mole | mammal | fur | tunnel | worms | pup | digs | squeaks
hen | bird | feathers | coop | grain | chick | walks | clucks
duck | bird | feathers | pond | weeds | duckling | swims | quacks
goose | bird | feathers | farmyard | grass | gosling | swims | honks
owl | bird | feathers | barn | mice | owlet | flies | hoots
crow | bird | feathers | tree | crumbs | chick | flies | caws
eagle | bird | feathers | cliff | fish | eaglet | flies | screams
swan | bird | feathers | lake | weeds | cygnet | swims | hisses
penguin | bird | feathers | ice | fish | chick | swims | honks
parrot | bird | feathers | jungle | fruit | chick | flies | talks
robin | bird | feathers | nest | worms | chick | flies | sings
frog | amphibian | skin | pond | flies | tadpole | hops | croaks
toad | amphibian | skin | garden | slugs | tadpole | hops | croaks
newt | amphibian | skin | stream | insects | eft | swims | -
snake | reptile | scales | grass | mice | snakelet | slides | hisses
lizard | reptile | scales | rock | insects | hatchling | runs | -
turtle | reptile | shell | river | weeds | hatchling | swims | -
crocodile | reptile | scales | swamp | fish | hatchling | swims | -
salmon | fish | scales | river | insects | fry | swims | -
shark | fish | scales | ocean | seals | pup | swims | -
trout | fish | scales | stream | insects | fry | swims | -
bee | insect | hair | hive | nectar | larva | flies | buzzes
ant | insect | shell | anthill | crumbs | larva | crawls | -
butterfly | insect | scales | meadow | nectar | caterpillar | flies | -
beetle | insect | shell | log | leaves | grub | crawls | -
cricket | insect | shell | field | leaves | nymph | leaps | chirps
spider | arachnid | hair | web | flies | spiderling | crawls | -
crab | crustacean | shell | seashore | snails | larva | crawls | -
snail | mollusk | shell | garden | lettuce | hatchling | crawls | -
"""

# name | kind | colour | taste | comes from
FOODS = """
apple | fruit | red | sweet | tree
pear | fruit | green | sweet | tree
plum | fruit | purple | sweet | tree
cherry | fruit | red | sweet | tree
lemon | fruit | yellow | sour | tree
orange | fruit | orange | juicy | tree
banana | fruit | yellow | soft | tree
grape | fruit | purple | sweet | vine
strawberry | fruit | red | sweet | bush
blueberry | fruit | blue | sweet | bush
melon | fruit | green | juicy | vine
carrot | vegetable | orange | crunchy | root
potato | vegetable | brown | plain | root
onion | vegetable | white | sharp | bulb
cabbage | vegetable | green | bitter | leaf
spinach | vegetable | green | bitter | leaf
pea | vegetable | green | sweet | pod
bean | vegetable | brown | plain | pod
pumpkin | vegetable | orange | mild | vine
tomato | vegetable | red | juicy | vine
beet | vegetable | purple | earthy | root
bread | baked food | brown | plain | wheat
cake | baked food | yellow | sweet | flour
pie | baked food | golden | sweet | flour
cheese | dairy food | yellow | salty | milk
butter | dairy food | yellow | creamy | cream
yogurt | dairy food | white | sour | milk
honey | sweet food | golden | sweet | bees
jam | sweet food | red | sweet | fruit
ham | meat | pink | salty | pig
beef | meat | red | rich | cow
rice | grain | white | plain | grass
oatmeal | grain | gray | plain | oats
soup | dish | brown | warm | pot
salad | dish | green | fresh | leaves
"""

# cause | effect | (both are clauses that can stand after "when")
SCIENCE = """
water is heated to boiling | it turns into steam
water is cooled below freezing | it turns into ice
ice is left in the sun | it melts into water
steam touches cold glass | it turns back into drops
a puddle lies in the sun | it dries up
iron is left in the rain | it rusts
wood is put in a fire | it burns to ash
a candle is covered with a jar | the flame goes out
a seed gets water and warmth | it sprouts
a plant gets no light | it turns pale and dies
a plant gets no water | it wilts
a magnet is held near iron | the iron is pulled to it
a magnet is held near wood | nothing happens
two north poles of magnets meet | they push apart
a ball is thrown up | gravity pulls it down
a stone is dropped in water | it sinks
a cork is dropped in water | it floats
salt is stirred into water | it dissolves
sugar is stirred into hot tea | it dissolves
sand is stirred into water | it settles at the bottom
oil is poured on water | it floats on top
light hits a mirror | it bounces back
light shines on a wall behind a tree | a shadow falls on the wall
sunlight passes through rain drops | a rainbow appears
the earth turns once | a day goes by
the earth goes once around the sun | a year goes by
the moon goes once around the earth | about a month goes by
our side of the earth faces away from the sun | it is night
a string is plucked | it makes a sound
a drum is hit harder | the sound is louder
a string is made shorter | the note is higher
metal is heated | it grows a little
metal is cooled | it shrinks a little
hands are rubbed together | they get warm
a metal spoon stands in hot soup | its handle gets hot
a wooden spoon stands in hot soup | its handle stays cool
milk is left in a warm room | it goes sour
bread is left in a damp place | mold grows on it
dough with yeast is kept warm | it rises
a wire joins a battery to a lamp | the lamp lights up
the wire in a circuit is cut | the lamp goes out
warm air is let free | it rises
clouds get cold and heavy | rain falls
the air gets very cold | snow falls
wind blows over the sea | waves form
a river runs over soft rock for years | it cuts a valley
leaves fall and rot | they feed the soil
bees visit flowers | seeds can form
a caterpillar wakes from its cocoon | it is a butterfly
an animal breathes | it takes in oxygen
a plant makes food from light | it gives off oxygen
days get shorter | winter is coming
days get longer | summer is coming
a person runs fast | the heart beats faster
a wheel is oiled | it turns more easily
a road is icy | tires slip
a sled is put on a steeper hill | it slides faster
a heavy box is put on wheels | it is easier to move
a lever is made longer | a load is easier to lift
a hot pan is put in cold water | the water gets warmer
"""

# question word group | fact in the form "subject | answer"
NATURE_PAIRS = {
    "organ_job": """
heart | pumps blood
lungs | take in air
stomach | breaks down food
brain | controls the body
skin | covers the body
bones | hold the body up
eyes | see light
ears | hear sound
nose | smells things
tongue | tastes food
teeth | chew food
muscles | move the body
roots | take up water
leaves | catch sunlight
stem | carries water up
petals | draw insects
seeds | grow into new plants
bark | protects the tree
wings | lift a bird into the air
fins | steer a fish
gills | take oxygen from water
""",
    "tool_measure": """
thermometer | temperature
ruler | length
scale | weight
clock | time
compass | direction
rain gauge | rainfall
stopwatch | short times
barometer | air pressure
measuring cup | volume
wind vane | wind direction
""",
    "season_sign": """
spring | new leaves open
summer | the days are hot and long
autumn | leaves turn red and fall
winter | ponds freeze over
""",
    "source_of": """
sun | light and heat
wheat | flour
cow | milk
hen | eggs
sheep | wool
bees | honey
trees | wood
cotton plants | cotton
mines | coal
wells | water
clay pits | clay
olives | oil
cream | butter
goat | goat cheese
vines | grapes
oak | acorns
sand | glass
""",
}
