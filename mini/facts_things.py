"""What is true of materials, objects, trades and places in the world of `mini`: tables, one row per thing."""

from __future__ import annotations

# name | feel | in water | with fire | with electricity | with light | comes from
MATERIALS = """
wood | hard | floats | burns | blocks current | blocks light | trees
iron | hard | sinks | glows | carries current | blocks light | ore
copper | hard | sinks | glows | carries current | blocks light | ore
steel | hard | sinks | glows | carries current | blocks light | iron
silver | hard | sinks | melts | carries current | blocks light | ore
glass | brittle | sinks | melts | blocks current | lets light through | sand
plastic | light | floats | melts | blocks current | blocks light | oil
paper | thin | floats | burns | blocks current | blocks light | wood
cardboard | stiff | floats | burns | blocks current | blocks light | paper
wool | soft | floats | burns | blocks current | blocks light | sheep
cotton | soft | floats | burns | blocks current | blocks light | cotton plants
silk | smooth | floats | burns | blocks current | blocks light | silkworms
leather | tough | floats | burns | blocks current | blocks light | cow hides
rubber | bouncy | floats | melts | blocks current | blocks light | rubber trees
clay | soft | sinks | hardens | blocks current | blocks light | the ground
stone | hard | sinks | stays cool | blocks current | blocks light | quarries
brick | hard | sinks | stays cool | blocks current | blocks light | clay
wax | soft | floats | melts | blocks current | blocks light | bees
straw | light | floats | burns | blocks current | blocks light | wheat fields
cork | light | floats | burns | blocks current | blocks light | cork trees
"""

# name | kind | material | used to ... | place where it is kept or found
OBJECTS = """
hammer | tool | iron | drive nails | workshop
saw | tool | steel | cut wood | workshop
chisel | tool | steel | carve wood | workshop
drill | tool | steel | make holes | workshop
ladder | tool | wood | reach high places | shed
shovel | tool | iron | dig holes | shed
rake | tool | iron | gather leaves | shed
hoe | tool | iron | loosen soil | shed
axe | tool | iron | chop logs | shed
bucket | container | plastic | carry water | well
broom | tool | straw | sweep the floor | closet
mop | tool | cotton | wash the floor | closet
brush | tool | wood | paint walls | studio
needle | tool | steel | sew cloth | sewing box
scissors | tool | steel | cut paper | desk
knife | tool | steel | slice bread | kitchen
fork | tool | silver | pick up food | kitchen
spoon | tool | silver | stir soup | kitchen
pot | container | copper | cook stew | stove
pan | container | iron | fry eggs | stove
kettle | container | steel | boil water | stove
oven | machine | steel | bake bread | bakery
plate | dish | clay | serve food | cupboard
bowl | dish | clay | hold soup | cupboard
cup | dish | clay | drink tea | cupboard
bottle | container | glass | store juice | cellar
jar | container | glass | keep jam | pantry
basket | container | straw | carry fruit | market
barrel | container | wood | store apples | cellar
box | container | cardboard | pack gifts | attic
bag | container | cotton | carry groceries | market
suitcase | container | leather | pack clothes | station
trunk | container | wood | store old things | attic
chair | furniture | wood | sit on | dining room
table | furniture | wood | eat meals at | dining room
bed | furniture | wood | sleep in | bedroom
pillow | bedding | cotton | rest the head on | bedroom
blanket | bedding | wool | keep warm at night | bedroom
sofa | furniture | leather | rest on | living room
shelf | furniture | wood | hold books | library
lamp | light | copper | light a room | living room
candle | light | wax | give light without power | church
lantern | light | glass | light a dark path | mine
mirror | furnishing | glass | see one's face | bathroom
towel | cloth | cotton | dry the hands | bathroom
comb | tool | plastic | tidy the hair | bathroom
soap | cleaner | oil | wash the hands | bathroom
toothbrush | tool | plastic | clean the teeth | bathroom
coat | clothing | wool | stay warm outside | hallway
hat | clothing | straw | shade the head | hallway
scarf | clothing | wool | warm the neck | hallway
gloves | clothing | leather | protect the hands | hallway
boots | clothing | rubber | walk through mud | porch
shoes | clothing | leather | protect the feet | porch
umbrella | covering | silk | keep off the rain | porch
shirt | clothing | cotton | cover the chest | wardrobe
dress | clothing | silk | wear to a party | wardrobe
belt | clothing | leather | hold up pants | wardrobe
book | reading | paper | read stories | library
newspaper | reading | paper | learn the news | newsstand
map | reading | paper | find the way | car
pencil | writing tool | wood | draw pictures | classroom
pen | writing tool | plastic | write letters | desk
chalk | writing tool | stone | write on the board | classroom
eraser | writing tool | rubber | remove pencil marks | classroom
notebook | writing tool | paper | take notes | classroom
stamp | sticker | paper | mail a letter | post office
envelope | covering | paper | send a letter | post office
coin | money | silver | pay for things | purse
key | tool | iron | open a lock | pocket
lock | fastener | steel | keep a door shut | door
rope | fastener | cotton | tie things together | boat
nail | fastener | iron | join boards | workshop
screw | fastener | steel | hold parts together | workshop
glue | fastener | plastic | stick paper together | desk
tape | fastener | plastic | seal a package | post office
wheel | part | rubber | help a cart roll | wagon
boat | vehicle | wood | cross a lake | harbor
ship | vehicle | steel | cross the sea | harbor
bicycle | vehicle | steel | ride to school | street
train | vehicle | steel | travel between towns | station
bus | vehicle | steel | carry many people | street
cart | vehicle | wood | haul hay | farm
plow | machine | iron | turn the soil | farm
tractor | machine | steel | pull a plow | farm
airplane | vehicle | steel | fly to far places | airport
sled | vehicle | wood | slide on snow | hill
tent | shelter | cotton | sleep outdoors | campsite
kite | toy | paper | fly in the wind | park
ball | toy | rubber | play catch | playground
doll | toy | cotton | play house | toy shop
puzzle | toy | cardboard | pass a rainy day | toy shop
swing | toy | wood | fly back and forth | playground
drum | instrument | leather | keep a beat | concert hall
violin | instrument | wood | play a tune with a bow | concert hall
flute | instrument | silver | play a tune by blowing | concert hall
piano | instrument | wood | play music with keys | concert hall
bell | instrument | copper | call people together | tower
clock | device | copper | tell the time | tower
camera | device | plastic | take pictures | studio
telephone | device | plastic | talk to people far away | office
computer | device | plastic | write programs | office
radio | device | plastic | hear music and news | living room
telescope | device | glass | see the stars | observatory
microscope | device | glass | see tiny things | laboratory
magnet | device | iron | pick up pins | laboratory
battery | device | copper | power a toy | drawer
wire | part | copper | carry current | drawer
fan | machine | plastic | cool a room | office
refrigerator | machine | steel | keep food cold | kitchen
net | tool | cotton | catch fish | harbor
fishing rod | tool | wood | catch trout | river
bandage | medicine | cotton | cover a cut | hospital
pill | medicine | chalk | ease a pain | pharmacy
crutch | aid | wood | walk with a hurt leg | hospital
glasses | aid | glass | see clearly | face
helmet | protection | plastic | protect the head | fire station
hose | tool | rubber | spray water | fire station
fence | barrier | wood | keep sheep in | farm
bridge | structure | stone | cross a river | river
wall | structure | brick | hold up a roof | house
window | part | glass | let light in | house
"""

# trade | workplace | tool | what they do
TRADES = """
baker | bakery | oven | bakes bread
farmer | farm | tractor | grows crops
teacher | school | chalk | teaches children
doctor | hospital | thermometer | treats sick people
nurse | hospital | bandage | cares for patients
carpenter | workshop | saw | builds furniture
blacksmith | forge | hammer | shapes iron
tailor | tailor shop | needle | sews clothes
cook | restaurant | pan | cooks meals
fisher | harbor | net | catches fish
sailor | ship | rope | sails the sea
miner | mine | lantern | digs coal
painter | studio | brush | paints pictures
potter | pottery | wheel | makes bowls
weaver | mill | loom | weaves cloth
mason | building site | trowel | lays bricks
gardener | garden | rake | tends flowers
barber | barber shop | scissors | cuts hair
butcher | butcher shop | knife | sells meat
grocer | store | scale | sells food
librarian | library | catalog | lends books
mail carrier | post office | mailbag | delivers letters
firefighter | fire station | hose | puts out fires
police officer | police station | whistle | keeps order
judge | court | gavel | decides cases
pilot | airport | airplane | flies planes
bus driver | bus stop | bus | drives passengers
mechanic | garage | wrench | fixes cars
plumber | bathroom | pipe wrench | fixes leaks
electrician | power station | pliers | repairs wires
dentist | dental clinic | drill | fixes teeth
vet | animal clinic | stethoscope | heals animals
shepherd | meadow | crook | guards sheep
beekeeper | apiary | smoker | gathers honey
astronomer | observatory | telescope | studies stars
chemist | laboratory | test tube | mixes chemicals
musician | concert hall | violin | plays music
actor | theater | script | performs plays
reporter | newspaper office | notebook | writes news
programmer | office | computer | writes software
banker | bank | safe | lends money
waiter | restaurant | tray | serves meals
jeweler | jewelry shop | loupe | makes rings
cobbler | shoe shop | awl | mends shoes
"""

# place | what people go there to do | what one sees there
PLACES = """
park | walk and play | benches and trees
beach | swim in the sea | sand and shells
library | borrow books | rows of books
school | learn to read | desks and a blackboard
market | buy fruit | stalls and crowds
hospital | get well | beds and nurses
farm | see cows | barns and fields
museum | look at old things | statues and paintings
theater | watch a play | a stage and curtains
cinema | watch a film | a big screen
zoo | look at wild animals | cages and keepers
station | catch a train | tracks and platforms
airport | catch a plane | runways and jets
harbor | watch boats | docks and ropes
restaurant | eat dinner | tables and menus
bakery | buy bread | ovens and loaves
bank | save money | counters and coins
post office | mail a letter | stamps and parcels
church | pray and sing | pews and candles
gym | exercise | mats and weights
pool | swim laps | lanes and ladders
forest | pick mushrooms | tall trees and moss
mountain | climb high | rocks and snow
river | fish for trout | water and reeds
desert | ride camels | sand and cactus
garden | grow flowers | roses and bees
playground | ride the swings | slides and swings
stadium | cheer a team | a field and seats
bookstore | buy a novel | shelves of new books
pharmacy | buy medicine | pills and bottles
hotel | spend the night | rooms and keys
court | settle a dispute | a judge and lawyers
laboratory | do experiments | flasks and microscopes
observatory | look at planets | a dome and a telescope
campsite | sleep in a tent | tents and a campfire
kitchen | cook supper | pots and a stove
office | do paperwork | desks and computers
barber shop | get a haircut | chairs and mirrors
garage | have a car repaired | tires and tools
castle | learn about kings | towers and a moat
"""
